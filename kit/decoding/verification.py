"""The phoneme head as a witness: the LLM writes nothing that was not heard."""

from __future__ import annotations

from kit.decoding.alignment import excess, heard_part, warm_up
from kit.decoding.callbacks import Candidate, DecodingCallback, Utterance


class PhonemeGate(DecodingCallback):
    """The LLM is not asked before the phoneme head has heard something.

    Args:
        phonemes: that must have been heard.
    """

    def __init__(self, phonemes: int = 1) -> None:
        self.phonemes = phonemes

    def expects_text(self, utterance: Utterance) -> bool:
        """Whether enough phonemes were heard."""
        return len(utterance.phonemes) >= self.phonemes


class PhonemeTrim(DecodingCallback):
    """A text so far ends where the phonemes heard so far end: what the LLM foresees is not told."""

    def __init__(self) -> None:
        warm_up()

    def partial(self, utterance: Utterance, text: str) -> str:
        """The part of the text that was heard."""
        return heard_part(text, utterance.phonemes, utterance.inventory)


class PhonemeVeto(DecodingCallback):
    """Hypotheses that the audio cannot contain are dropped, the others weighed by how well they explain it.

    A text's excess is how much worse its phonemes explain the audio, by the CTC forward probability, than the best
    path of all, in nats a phoneme.

    Args:
        limit: excess above which a text is dropped.
        weight: of the excess in the score of what is left.
        trust: excess up to which a greedy text is taken without a beam search.
    """

    def __init__(self, limit: float = 12.0, weight: float = 1.0, trust: float = 0.0) -> None:
        self.limit, self.weight, self.trust = limit, weight, trust
        self._judged: tuple[Utterance | None, str, float] = (None, "", 0.0)  # the greedy text is offered again
        warm_up()

    def trusts(self, utterance: Utterance, candidate: Candidate) -> bool:
        """Whether the audio says just this."""
        (found,) = excess(utterance.all_log_probs(), [candidate.text], utterance.inventory)
        self._judged = (utterance, candidate.text, found)
        return found <= self.trust

    def hypotheses(self, utterance: Utterance, offered: list[Candidate]) -> list[Candidate]:
        """Those that the audio can contain, best first."""
        texts = [one.text for one in offered]
        judged, text, worse = self._judged
        if judged is utterance and texts == [text]:
            found = [worse]
        else:
            found = excess(utterance.all_log_probs(), texts, utterance.inventory)
        kept = [
            Candidate(one.text, one.score - self.weight * worse)
            for one, worse in zip(offered, found, strict=True)
            if worse <= self.limit
        ]
        return sorted(kept, key=lambda candidate: -candidate.score)
