"""Several corpora as one: trained on in given shares, reported one by one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import lightning as L
import torch
from lhotse import CutSet
from omegaconf import DictConfig, OmegaConf

from datamodules.base import SpeechData
from datamodules.rows import Chained, as_cuts, durations
from kit.config import compose
from kit.errors import UsageError, nearest
from kit.plugins import import_class

_WEIGHT, _DATA = "weight", "data"  # keys of a member that are no values of its data section


class MixedData(SpeechData):
    """`data=mix data.members={aishell: 2, librispeech: 1}`: of three seconds of training two are AISHELL's.

    A member is an option of configs/data with its share, or, under any name, a mapping: `data` (the option; the name if
    it is not given), `weight` and other values of its data section. Shares are of seconds; null instead of a share
    stands for as many as the member has, and has to be null for all then. With 0 none of a member's recordings is
    trained on; its texts are read, and its parts reported. An epoch draws as many utterances as there are, each by its
    member's share; parts to report are called MEMBER/PART.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        members = OmegaConf.to_container(config.data.members, resolve=True)
        if not isinstance(members, dict) or not members:
            raise UsageError("data=mix needs members, such as data.members={aishell: 2, librispeech: 1}")
        described = {str(name): _described(str(name), value) for name, value in members.items()}
        self.shares = _checked_shares({name: one.pop(_WEIGHT) for name, one in described.items()})
        self.members = {name: _member(config, name, one) for name, one in described.items()}

    def prepare_data(self) -> None:
        """Prepare all members."""
        for member in self.members.values():
            member.prepare_data()

    def load_cuts(self, split: str) -> CutSet:
        """The cuts of train or dev, of all members together, or of MEMBER/PART.

        Raises:
            UsageError: there is no such member or part.
        """
        if split in ("train", "dev"):
            parts = {name: member.cuts(split).data for name, member in self.members.items()}
            return as_cuts(Chained({name: cuts for name, cuts in parts.items() if len(cuts)}))
        name, _, part = split.partition("/")
        if name not in self.members or not part:
            guess = nearest(split, self.test_parts())
            hint = f"did you mean {guess}?" if guess else f"choose train, dev, {', '.join(self.test_parts())}"
            raise UsageError(f"data=mix has no part {split!r}; {hint}")
        cuts = self.members[name].spoken(part)
        self.left_out[split] = self.members[name].left_out.get(part, [])
        return cuts

    def test_parts(self) -> list[str]:
        """The parts of all members, MEMBER/PART."""
        return [f"{name}/{part}" for name, member in self.members.items() for part in member.test_parts()]

    def texts(self) -> list[str]:
        """What the members have for training a language model."""
        return [text for member in self.members.values() for text in member.sentences()]

    def weights(self) -> torch.Tensor | None:
        """(n,) of the utterances of training: so that the seconds drawn of each member have its share."""
        if None in self.shares.values():
            return None
        sizes = {name: member.cuts("train") for name, member in self.members.items()}
        seconds = durations(self.cuts("train")).split([len(cuts) for cuts in sizes.values()])
        shares = zip(self.shares.values(), seconds, strict=True)
        return torch.cat([torch.full_like(one, float(share or 0) / float(one.sum())) for share, one in shares])


def _described(name: str, value: Any) -> dict[str, Any]:
    """A member as a mapping with `data` and `weight`."""
    if not isinstance(value, Mapping):
        value = {_WEIGHT: value}
    return {_WEIGHT: None, _DATA: name, **{str(key): one for key, one in value.items()}}


def _checked_shares(shares: dict[str, Any]) -> dict[str, float | None]:
    for name, share in shares.items():
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if share is not None and not (number and 0 <= share < float("inf")):
            raise UsageError(f"the share of {name} in data.members is {share}; give a number, 0 or more, or null")
    if None in shares.values() and any(share is not None for share in shares.values()):
        raise UsageError("some of data.members have a share and some have none; give all one, or none")
    if not any(share is None or share > 0 for share in shares.values()):
        raise UsageError("all of data.members have the share 0; give one of them more")
    return shares


def _member(config: DictConfig, name: str, described: Mapping[str, Any]) -> SpeechData:
    """The data module of a member: the same configuration with another data section.

    Raises:
        UsageError: there is no such option, key or class.
    """
    values = {key: value for key, value in described.items() if key != _DATA}
    chosen = _section(str(described[_DATA]), tuple(config.get("configs") or ()))
    lost = [key for key in values if key not in chosen]
    if lost:
        raise UsageError(f"data.members.{name} has no value {lost[0]}; see configs/data/{described[_DATA]}.yaml")
    own = config.copy()
    own.data = OmegaConf.merge(chosen, values)
    kind: Any = import_class(own.data._target_, L.LightningDataModule, "data._target_")
    if kind is MixedData:
        raise UsageError("a mix cannot be a member of a mix; name its members")
    return kind(own)


@lru_cache(maxsize=64)
def _section(option: str, folders: tuple[str, ...]) -> DictConfig:
    """The data section of an option; composing one takes a while."""
    section: DictConfig = compose([f"data={option}"], list(folders)).data
    return section
