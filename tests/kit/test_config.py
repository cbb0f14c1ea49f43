import math
import os
import random

import pytest
import toys
from omegaconf import OmegaConf

import kit.config
from kit.config import compose, differences, fingerprint, flatten, for_stage, load, save
from kit.errors import KitError, UsageError


@pytest.fixture(autouse=True)
def toy_configs(tmp_path, monkeypatch):
    monkeypatch.setattr(kit.config, "CONFIGS", toys.write_configs(tmp_path / "configs"))
    monkeypatch.delenv("KIT_CONFIGS", raising=False)
    model = "name: tiny\nwidth: 6\nrate: 0.5\nlayers: [1, 2]\nhalf: ${.rate}\nllm: {pretrained: null}\nbias: true\n"
    (tmp_path / "configs" / "model" / "tiny.yaml").write_text(model)
    return tmp_path


def test_the_default_and_its_interpolations():
    config = compose()
    assert (config.stage.name, config.experiment, config.seed) == ("sft", "default", 1)
    assert config.trainer.max_steps == config.stage.steps == 12
    assert OmegaConf.is_struct(config)


def test_values_groups_and_new_keys():
    config = compose(["stage=align", "stage.steps=3", "+model.extra=[1,2]", "experiment=my run", "trainer.max_steps=7"])
    assert (config.stage.name, config.stage.steps, config.trainer.max_steps) == ("align", 3, 7)
    assert (config.experiment, list(config.model.extra)) == ("my run", [1, 2])
    assert config.overrides[0] == "stage=align"
    assert "bias" not in compose(["~model.bias"]).model


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("trainer.max_step=5", "unknown key trainer.max_step; did you mean trainer.max_steps?"),
        ("max_steps=5", "unknown key max_steps; did you mean trainer.max_steps?"),
        ("stge=sft", "unknown key stge; did you mean stage?"),
        ("xyzzy=1", "unknown key xyzzy; see configs/"),
        ("model.rate.x=1", "unknown key model.rate.x; did you mean model.rate?"),
        ("stage=stf", "unknown stage stf; did you mean sft? known: align, language_model, lonely, pretrain, sft"),
        ("stage=12", "unknown stage 12; known: align"),
        ("stage=sft,align", "unknown stage sft,align"),
        ("trainer=xxxxxxx", "unknown trainer xxxxxxx; known: debug, default"),
        ("seed=many", "seed wants a whole number, got many"),
        ("seed=1.5", "seed wants a whole number, got 1.5"),
        ("seed=null", "seed wants a whole number, got null"),
        ("seed=true", "seed wants a whole number, got true"),
        ("seed=1,2", "seed=1,2 gives several values where one is wanted; write a list as [a,b], "),
        ("seed=1,2", """a text with a comma as "seed='1,2'\""""),
        ("model.rate=fast", "model.rate wants a number, got fast"),
        ("model.half=fast", "model.half wants a number, got fast"),
        ("model.layers=3", r"model.layers wants a list like [a,b], got 3"),
        ("model.bias=3", "model.bias wants true or false, got 3"),
        ("experiment=[a]", r"experiment wants a text, got ['a']"),
        ("model.llm=3", "model.llm wants a mapping like {a: 1}, got 3"),
        ("model.llm={pretraine: x}", "unknown key model.llm.pretraine; did you mean model.llm.pretrained?"),
        ("threads=lots", "threads wants a whole number, got lots"),
        ("trainer.validate_every=often", "trainer.validate_every wants a whole number, got often"),
        ("init=[1]", r"init wants a text, got [1]"),
        ("hotwords=[a]", r"hotwords wants a text, got ['a']"),
        ("retrieval=exakt", "unknown retrieval exakt; did you mean exact? known: exact, "),
        ("retrieval.most=0", "retrieval.most must be at least 1, got 0"),
        ("retrieval.mots=1", "unknown key retrieval.mots; did you mean retrieval.most?"),
        ("seed", "'seed' is no key=value; write for example"),
        ("=5", "'=5' names no key"),
        ("model.layers=[1,2", r"cannot read the value of 'model.layers=[1,2'"),
        ("trainer.max_steps=0", "trainer.max_steps must be at least 1, got 0"),
        ("threads=0", "threads must be at least 1, got 0"),
        ("experiment=../x", "experiment is the name of a folder; '../x' cannot be one"),
        ("experiment=a/b", "cannot be one"),
        ("experiment=..", "cannot be one"),
        ("model.width=${nothing}", "cannot resolve the configuration"),
        ("experiment=???", "experiment has no value yet; give experiment=..."),
        ("configs=/no/such/folder", "the folder of configurations /no/such/folder does not exist"),
    ],
)
def test_wrong_overrides_get_one_sentence(override, answer):
    with pytest.raises(UsageError) as caught:
        compose([override])
    assert answer in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=1e3", 1000),
        ("model.rate=2", 2.0),
        ("model.rate=1e-3", 1e-3),
        ("model.rate=null", None),
        ("experiment=2026", "2026"),
        ("experiment=true", "true"),
        ("init=null", None),
        ("init=a=b", "a=b"),
        ("init=/data/中文 (1)/x.jsonl", "/data/中文 (1)/x.jsonl"),
        ("init='quoted, twice'", "quoted, twice"),
        ("init=it's", "it's"),
        ("init=a,b", "a,b"),
        ("init=a\\:b", "a\\:b"),
        ("init=C:\\folder\\", "C:\\folder\\"),
        ("threads=2", 2),
        ("trainer.devices=auto", "auto"),
        ("trainer.devices=[0]", [0]),
        ("model.layers=[]", []),
        ("model.width=${seed}", 1),
        ("model.llm={pretrained: x}", {"pretrained": "x"}),
        ("+model.llm.new=5", 5),
        ("++seed=5", 5),
        ("+seed=5", 5),
    ],
)
def test_values_arrive_as_meant(override, value):
    key = override.split("=")[0].lstrip("+")
    found = OmegaConf.select(compose([override]), key)
    found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
    assert found == value and type(found) is type(value)


def test_any_plain_text_survives():
    """Property: whatever stands behind the first "=" of a text value arrives unchanged."""
    letters = "ab中é'\"\\=:,;()<>|&!?*~#%@^+- \t/."
    generator = random.Random(1)
    keys = ["init", "checkpoint", "out", "cache", "upstream", "split", "data.name", "model.name", "decoding.name"]
    for _ in range(8):
        texts = {key: "x" + "".join(generator.choices(letters, k=generator.randint(0, 8))) + "x" for key in keys}
        config = compose([f"{key}={text}" for key, text in texts.items()])
        assert {key: OmegaConf.select(config, key) for key in keys} == texts


def test_folders_of_ones_own(tmp_path, monkeypatch):
    own = tmp_path / "own files"
    (own / "stage").mkdir(parents=True)
    (own / "stage" / "mine.yaml").write_text("name: mine\nsteps: 5\ngradient_clip: 1.0\nrequires: [pretrain]\n")
    for config in (compose([f"configs={own}", "stage=mine"]), compose(["stage=mine"], own)):
        assert config.stage.name == "mine" and list(config.configs) == [str(own)]
        assert for_stage(config, "pretrain").configs == config.configs
    monkeypatch.setenv("KIT_CONFIGS", str(own))
    assert compose(["stage=mine"]).stage.name == "mine"
    with pytest.raises(UsageError, match="unknown stage min; did you mean mine?"):
        compose(["stage=min"])


def test_a_missing_value_is_asked_for(tmp_path):
    (tmp_path / "configs" / "data" / "files.yaml").write_text("name: files\ntrain: ???\n")
    with pytest.raises(UsageError, match="data.train has no value yet; give data.train=..."):
        compose(["data=files"])
    assert compose(["data=files", "data.train=x.jsonl"]).data.train == "x.jsonl"


def test_debug_is_an_experiment_of_its_own():
    config = compose(["trainer=debug"])
    assert (config.experiment, config.trainer.max_steps, config.trainer.accelerator) == ("debug", 3, "auto")
    assert compose(["trainer=debug", "experiment=x"]).experiment == "x"


def test_for_stage_keeps_what_is_not_meant_for_one_stage():
    config = compose(
        ["stage=sft", "stage.steps=3", "seed=3", "init=x", "upstream=never", "model.width=4", "trainer=debug"]
    )
    other = for_stage(config, "pretrain")
    assert (other.stage.name, other.stage.steps, other.seed, other.init, other.upstream) == (
        "pretrain",
        12,
        3,
        None,
        "auto",
    )
    assert (other.model.width, other.experiment) == (4, "debug")


def test_saved_is_loaded(tmp_path):
    config = compose(["model.rate=1e-05", "experiment=on", "+text='a\\${b}'", "+more='\\\\\\\\${seed}'", "init=1e3"])
    save(config, tmp_path / "config.yaml")
    again = load(tmp_path / "config.yaml")
    assert OmegaConf.to_container(again, resolve=True) == OmegaConf.to_container(config, resolve=True)
    assert again.trainer.max_steps == 12 and again.experiment == "on" and again.init == "1e3"
    keys = [str(key) for key in config]
    assert fingerprint(again, keys) == fingerprint(config, keys)


@pytest.mark.parametrize("content", [None, "a: [", "- 1", "", "a: &x [*x]"])
def test_a_damaged_file(tmp_path, content):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    if content == "":
        assert load(path) == {}
        return
    with pytest.raises(KitError, match="cannot read the configuration"):
        load(path)


def test_fingerprint_is_of_values_alone():
    one, other = compose(["trainer.max_steps=12"]), compose(["stage.steps=12"])
    assert fingerprint(one, ["trainer", "stage"]) == fingerprint(other, ["stage", "trainer"])
    assert fingerprint(one, ["model"]) != fingerprint(compose(["model.width=7"]), ["model"])
    assert fingerprint(one, ["model"]) == fingerprint(compose(["seed=2"]), ["model"])
    assert len(fingerprint(one, ["model"])) == 64


def test_retrieval_takes_part_in_decoding_where_there_is_something_to_search():
    there = "decoding.callbacks.hotwords"
    for overrides in ([], ["retrieval=none", "hotwords=DB"], ["retrieval.most=3"], ["hotwords=null"]):
        assert OmegaConf.select(compose(overrides), there) is None
    found = OmegaConf.select(compose(["hotwords=/my/集 1", "personal=1.tsv", "retrieval.most=3"]), there)
    assert (found.database, found.personal, found.most) == ("/my/集 1", "1.tsv", 3)
    assert "name" not in found and found._target_.startswith("kit.decoding.hotwords.")
    assert fingerprint(compose(["retrieval=none"]), ["decoding"]) == fingerprint(compose(), ["decoding"])
    assert fingerprint(compose(["hotwords=DB"]), ["decoding"]) != fingerprint(compose(), ["decoding"])


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["retrieval.margin=nan"], "retrieval.margin must be a finite number, got nan"),
        (["retrieval.margin=inf"], "retrieval.margin must be a finite number, got inf"),
        (["retrieval.margin=null"], "retrieval.margin must be a finite number, got None"),
        (["retrieval.margin=much"], "retrieval.margin wants a number, got much"),
        (["retrieval.verify=perhaps"], "retrieval.verify wants true or false, got perhaps"),
        (["retrieval.verify=null"], "retrieval.verify wants true or false, got null"),
        (["retrieval.device=gpu"], "retrieval.device must be cpu, cuda or cuda:NUMBER, got gpu"),
        (["retrieval.device=cuda:"], "retrieval.device must be cpu, cuda or cuda:NUMBER, got cuda:"),
        (["retrieval.device=null"], "retrieval.device must be cpu, cuda or cuda:NUMBER, got None"),
        (["retrieval.most=0"], "retrieval.most must be at least 1, got 0"),
        (["retrieval.homophones=0"], "retrieval.homophones must be at least 1, got 0"),
        (["retrieval.shortest=0"], "retrieval.shortest must be at least 1, got 0"),
        (["retrieval.margins=1"], "unknown key retrieval.margins; did you mean retrieval.margin?"),
        (["retrieval=hybird"], "unknown retrieval hybird; did you mean hybrid?"),
    ],
)
def test_values_of_retrieval_are_checked(overrides, answer):
    chosen = [] if overrides[0].startswith("retrieval=") else ["retrieval=hybrid"]
    with pytest.raises(UsageError) as caught:
        compose([*chosen, *overrides])
    assert answer in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("retrieval.margin=-1", -1.0),
        ("retrieval.margin=2.5", 2.5),
        ("retrieval.verify=false", False),
        ("retrieval.device=cuda:1", "cuda:1"),
        ("retrieval.shortest=null", None),
    ],
)
def test_values_of_retrieval_reach_the_callback(override, value):
    config = compose(["retrieval=hybrid", "hotwords=DB", override])
    found = config.decoding.callbacks.hotwords[override.split("=")[0].split(".")[1]]
    assert found == value and type(found) is type(value)


def test_a_way_of_searching_of_ones_own_is_checked_too(tmp_path):
    (tmp_path / "configs" / "retrieval" / "mine.yaml").write_text("name: mine\nmargin: high\n")
    with pytest.raises(UsageError, match="retrieval.margin must be a finite number, got high"):
        compose(["retrieval=mine"])


def test_flatten_and_differences():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}
    one, other = compose(), compose(["model.width=7", "+model.more=1"])
    assert differences(one, other, "model") == ["model.more", "model.width"]
    assert differences(one, one, "model") == []
    assert not math.isnan(flatten(one)["seed"])


def test_a_file_that_changes_is_read_anew_and_configurations_share_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    mine = tmp_path / "model/mine.yaml"
    mine.write_text("defaults: [tiny, _self_]\nencoder: {layers: 3}\n")
    first, second = (compose(["model=mine"], tmp_path) for _ in "12")
    first.model.encoder.layers = 5
    assert second.model.encoder.layers == 3 == compose(["model=mine"], tmp_path).model.encoder.layers
    mine.write_text("defaults: [tiny, _self_]\nencoder: {layers: 4}\n")
    os.utime(mine, ns=(1, 1))
    assert compose(["model=mine"], tmp_path).model.encoder.layers == 4
