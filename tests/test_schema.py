"""Schemas, strict settings and the configuration: what is taken, what is refused, and what the refusal says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ctr.config import Config, dump_config, flatten, load_config
from features.errors import BadInput, did_you_mean
from features.schema import Categorical, Cross, Numeric, Schema, Time, criteo, load_schema
from features.strict import parse, read_yaml


def yaml_file(folder: Path, text: str, name: str = "settings.yaml") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def schema_from(path: Path, crosses: tuple[tuple[str, ...], ...] = ()) -> Schema:
    """The schema in a YAML file, with its own bucket and row counts."""
    return load_schema(str(path), buckets=None, min_count=None, crosses=crosses)


def test_criteo_has_13_numbers_and_26_categories_after_the_label() -> None:
    """The built-in layout is that of the public data sets."""
    columns = criteo().columns
    assert columns[:3] == ["label", "I1", "I2"]
    assert columns[13:15] == ["I13", "C1"]
    assert columns[-1] == "C26"
    assert len(columns) == 40


def test_nearest_name_is_offered() -> None:
    """A slip of the pen is answered with the name meant."""
    assert did_you_mean("epocs", ["epochs", "threads"]) == "did you mean 'epochs'?"


def test_all_names_are_offered_when_none_is_near() -> None:
    """What resembles nothing is answered with everything there is."""
    assert did_you_mean("zzz", ["epochs", "threads"]) == "known: epochs, threads"


def test_unknown_key_of_a_schema_names_the_nearest_and_the_file(tmp_path: Path) -> None:
    """The message says where, what, and what was probably meant."""
    path = yaml_file(tmp_path, "categorical: [C1]\nseperator: ','\n")
    with pytest.raises(BadInput) as caught:
        schema_from(path)
    assert str(caught.value) == f"{path}: unknown key 'seperator': did you mean 'separator'?"


def test_unknown_key_inside_a_list_of_groups_names_the_nearest(tmp_path: Path) -> None:
    """A key of a single field is looked up among the keys that fields have."""
    path = yaml_file(tmp_path, "categorical: [C1, {name: C2, bucket: 7}]\n")
    with pytest.raises(BadInput, match=r"unknown key 'categorical\.1\.bucket': did you mean 'buckets'\?"):
        schema_from(path)


def test_wrong_type_in_a_schema_names_key_and_value(tmp_path: Path) -> None:
    """Text is not taken for a number."""
    path = yaml_file(tmp_path, "categorical: [{name: C1, buckets: '100'}]\n")
    with pytest.raises(BadInput, match=r"'categorical\.0\.buckets' got '100'"):
        schema_from(path)


def test_value_out_of_range_names_key_and_value() -> None:
    """One bucket would be no hashing."""
    with pytest.raises(BadInput, match=r"here: 'categorical\.0\.buckets' got 1: .*greater than or equal to 2"):
        parse(Schema, {"categorical": [{"name": "C1", "buckets": 1}]}, "here")


def test_names_alone_are_short_for_fields_with_defaults(tmp_path: Path) -> None:
    """`[C1, C2]` means the same as `[{name: C1}, {name: C2}]`, and the two may be mixed."""
    path = yaml_file(tmp_path, "numeric: [I1]\ncategorical: [C1, {name: C2, buckets: 50}]\n")
    assert schema_from(path) == Schema(
        numeric=(Numeric(name="I1"),), categorical=(Categorical(name="C1"), Categorical(name="C2", buckets=50))
    )


def test_all_settings_of_a_schema_are_read(tmp_path: Path) -> None:
    """Label, separator, header, kinds and crosses come from the file."""
    text = """
        label: click
        separator: ","
        header: true
        numeric: [{name: price, kind: float, dense: none, token: log_square, min_count: 7}]
        categorical: [site, ad]
        crosses: [{fields: [site, ad], buckets: 64, min_count: 3}]
    """
    assert schema_from(yaml_file(tmp_path, text)) == Schema(
        label="click",
        separator=",",
        header=True,
        numeric=(Numeric(name="price", kind="float", dense="none", min_count=7),),
        categorical=(Categorical(name="site"), Categorical(name="ad")),
        crosses=(Cross(fields=("site", "ad"), buckets=64, min_count=3),),
    )


def test_cross_is_named_after_its_fields() -> None:
    """The name joins the fields in their order."""
    assert Cross(fields=("C2", "C1", "C9")).name == "C2_x_C1_x_C9"


def test_settings_hold_for_every_field_and_cross() -> None:
    """Buckets are given to what is hashed, the least row count to every field."""
    schema = load_schema("criteo", buckets=99, min_count=5, crosses=(("C1", "C2"),))
    assert {field.buckets for field in (*schema.categorical, *schema.crosses)} == {99}
    assert {field.min_count for field in (*schema.numeric, *schema.categorical, *schema.crosses)} == {5}


def test_crosses_are_added_to_those_of_the_schema(tmp_path: Path) -> None:
    """The schema's own come first."""
    path = yaml_file(tmp_path, "categorical: [C1, C2, C3]\ncrosses: [{fields: [C1, C2]}]\n")
    schema = schema_from(path, crosses=(("C2", "C3"),))
    assert [cross.name for cross in schema.crosses] == ["C1_x_C2", "C2_x_C3"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("categorical: [C1, C1]", "C1"),
        ("numeric: [x]\ncategorical: [x]", "x"),
        ("categorical: [label]", "label"),
        ("label: y\nnumeric: [y]", "y"),
        ("categorical: [C1, C2]\ncrosses: [{fields: [C1, C2]}, {fields: [C1, C2]}]", "C1_x_C2"),
        ("categorical: [C1, C2, C1_x_C2]\ncrosses: [{fields: [C1, C2]}]", "C1_x_C2"),
    ],
)
def test_names_given_twice_are_refused(text: str, name: str, tmp_path: Path) -> None:
    """Labels, fields and crosses share one set of names."""
    with pytest.raises(BadInput, match=f"field '{name}' is named twice"):
        schema_from(yaml_file(tmp_path, text))


def test_cross_of_an_unknown_field_is_refused(tmp_path: Path) -> None:
    """The message names the cross and the field."""
    path = yaml_file(tmp_path, "categorical: [C1]\ncrosses: [{fields: [C1, C9]}]\n")
    with pytest.raises(BadInput, match="cross C1_x_C9 names 'C9', which is no categorical field"):
        schema_from(path)


def test_cross_of_a_numeric_field_is_refused(tmp_path: Path) -> None:
    """Only categories are crossed."""
    path = yaml_file(tmp_path, "numeric: [I1]\ncategorical: [C1]\n")
    with pytest.raises(BadInput, match="names 'I1', which is no categorical field"):
        schema_from(path, crosses=(("C1", "I1"),))


def test_cross_of_one_field_in_a_schema_is_refused(tmp_path: Path) -> None:
    """A cross in the schema's file joins at least two."""
    path = yaml_file(tmp_path, "categorical: [C1]\ncrosses: [{fields: [C1]}]\n")
    with pytest.raises(BadInput, match=r"'crosses\.0\.fields' got"):
        schema_from(path)


def test_cross_of_one_field_in_the_settings_is_refused() -> None:
    """A cross in the settings joins at least two as well, and the refusal is bad input and not a fault."""
    with pytest.raises(BadInput, match="C1"):
        load_schema("criteo", buckets=None, min_count=None, crosses=(("C1",),))


def test_schema_without_fields_is_refused(tmp_path: Path) -> None:
    """There must be something to learn from."""
    with pytest.raises(BadInput, match="at least one categorical field or numeric field with a token"):
        schema_from(yaml_file(tmp_path, "label: click\n"))


def test_unknown_schema_name_is_refused() -> None:
    """What is neither built in nor a file says what there is."""
    with pytest.raises(BadInput, match="'avazoo': give criteo, criteo-1tb, avazu, or the path"):
        load_schema("avazoo", buckets=None, min_count=None, crosses=())


def test_settings_cannot_be_changed_once_read() -> None:
    """Groups are frozen, also the nested ones."""
    config = load_config(None, [])
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 5.0  # pyright: ignore[reportAttributeAccessIssue]
    assert config.train.epochs == 3.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- 1\n- 2\n", "holds a list, not a mapping"),
        (b"just text", "holds a str, not a mapping"),
        (b"a: [1, 2", "is not valid YAML"),
        (b"\xff\xfe\xfa", "not UTF-8"),
    ],
)
def test_files_that_hold_no_settings_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """The message names the file and says what is wrong, on one line."""
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_of_settings_is_refused(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(BadInput, match=r"cannot read .*nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml", [])


def test_empty_file_means_the_defaults(tmp_path: Path) -> None:
    """Nothing said is nothing changed."""
    assert load_config(yaml_file(tmp_path, "# nothing\n"), []) == Config()


def test_file_and_overrides_change_what_they_name_only(tmp_path: Path) -> None:
    """The command line wins over the file, the file over the defaults."""
    path = yaml_file(tmp_path, "train: {epochs: 5, batch_size: 64}\n")
    config = load_config(path, ["train.epochs=3"])
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (3.0, 64, 0)


@pytest.mark.parametrize("text", ["1e-7", "1E-7", "1.0e-7", "0.0000001"])
def test_small_numbers_are_numbers_on_the_command_line(text: str) -> None:
    """YAML takes a number without a point for text; everybody means the number."""
    config = load_config(None, [f"optimizer.wide_l2={text}"])
    assert config.optimizer.wide_l2 == 1e-7


@pytest.mark.parametrize("text", ["1e-7", "1E-7", "1.0e-7", "0.0000001"])
def test_small_numbers_are_numbers_in_a_file(text: str, tmp_path: Path) -> None:
    """What works on the command line works in a file."""
    config = load_config(yaml_file(tmp_path, f"optimizer: {{wide_l2: {text}}}\n"), [])
    assert config.optimizer.wide_l2 == 1e-7


def test_lists_are_overridden_as_yaml() -> None:
    """Lists and lists of lists are written as in a file."""
    config = load_config(None, ["model.hidden=[64, 32]", "features.crosses=[[C1, C2], [C3, C4, C5]]"])
    assert config.model.hidden == (64, 32)
    assert config.features.crosses == (("C1", "C2"), ("C3", "C4", "C5"))


def test_null_takes_a_setting_back(tmp_path: Path) -> None:
    """A setting that may be absent is made absent by `null`."""
    path = yaml_file(tmp_path, "features: {buckets: 50}\n")
    assert load_config(path, []).features.buckets == 50
    assert load_config(path, ["features.buckets=null"]).features.buckets is None


def test_value_may_hold_an_equals_sign() -> None:
    """Only the first one divides."""
    assert load_config(None, ["tracking.experiment=a=b"]).tracking.experiment == "a=b"


def test_quoted_digits_stay_text() -> None:
    """Quotes are how text that looks like a number is given."""
    assert load_config(None, ['tracking.experiment="2024"']).tracking.experiment == "2024"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epocs=3", "command line: unknown key 'train.epocs': did you mean 'epochs'?"),
        ("trian.epochs=3", "command line: unknown key 'trian': did you mean 'train'?"),
        ("codistillation.weigth=1", "did you mean 'weight'?"),
    ],
)
def test_unknown_override_names_the_nearest(override: str, said: str) -> None:
    """Each is looked up in the group that it is in."""
    with pytest.raises(BadInput) as caught:
        load_config(None, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=three", "'train.epochs' got 'three'"),
        ("train.batch_size=1.5", "'train.batch_size' got 1.5"),
        ("train.seed=true", "'train.seed' got True"),
        ("train.batch_size=0", "'train.batch_size' got 0"),
        ("prepare.validation=1", "'prepare.validation' got 1"),
        ("prepare.split=alphabet", "'prepare.split' got 'alphabet'"),
        ("compare.arms=single", "'compare.arms' got 'single'"),
        ("compare.arms=[single, double]", "'compare.arms.1' got 'double'"),
        ("model.hidden=[8, 0]", "'model.hidden.1' got 0"),
        ("tracking.experiment=7", "'tracking.experiment' got 7"),
        ("train=3", "'train' got 3"),
        ("train.epochs=.nan", "'train.epochs' got nan"),
    ],
)
def test_wrong_value_names_key_and_value(override: str, said: str) -> None:
    """No type is turned into another, and limits hold."""
    with pytest.raises(BadInput) as caught:
        load_config(None, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["train.epochs", "codistillation.weight", "optimizer.learning_rate"])
def test_infinite_settings_are_refused(key: str) -> None:
    """Training without end or with infinite weight is nobody's wish."""
    with pytest.raises(BadInput, match=f"'{key}' got inf"):
        load_config(None, [f"{key}=.inf"])


@pytest.mark.parametrize("override", ["train.epochs", "=3", ""])
def test_override_without_key_or_sign_is_refused(override: str) -> None:
    """The message shows how it is written."""
    with pytest.raises(BadInput, match=r"is no key=value; write it as train\.epochs=3"):
        load_config(None, [override])


def test_override_inside_a_value_is_refused() -> None:
    """A setting is no group."""
    with pytest.raises(BadInput, match=r"train\.epochs"):
        load_config(None, ["train.epochs=3", "train.epochs.first=1"])


def test_override_that_is_no_yaml_is_refused() -> None:
    """An unfinished list is named whole."""
    with pytest.raises(BadInput, match=r"the value of 'model\.hidden=\[1, 2' is not valid YAML"):
        load_config(None, ["model.hidden=[1, 2"])


def test_fault_in_the_file_is_not_blamed_on_the_command_line(tmp_path: Path) -> None:
    """The file alone is named."""
    path = yaml_file(tmp_path, "train: {epochs: many}\n")
    with pytest.raises(BadInput) as caught:
        load_config(path, ["train.seed=1"])
    assert str(caught.value).startswith(f"{path}: 'train.epochs' got 'many'")


def test_date_is_refused_in_one_line(tmp_path: Path) -> None:
    """YAML turns some text into dates, which no setting takes."""
    with pytest.raises(BadInput, match="date is not JSON serializable"):
        load_config(yaml_file(tmp_path, "tracking: {experiment: 2026-01-01}\n"), [])


def test_whole_configuration_is_written_and_read_back(tmp_path: Path) -> None:
    """What is dumped gives the same settings again, the smallest numbers too."""
    chosen = ["optimizer.wide_l1=1e-7", "model.hidden=[7]", "features.crosses=[[C1, C2]]", "features.buckets=64"]
    config = load_config(None, chosen)
    assert load_config(yaml_file(tmp_path, dump_config(config)), []) == config


def test_groups_are_flattened_to_dotted_names() -> None:
    """Lists stay as they are."""
    nested = {"train": {"epochs": 3, "deep": {"er": None}}, "seed": [1, 2]}
    assert flatten(nested) == {"train.epochs": 3, "train.deep.er": None, "seed": [1, 2]}


# Times, weights, order, quotes


def test_new_settings_of_a_schema_are_read(tmp_path: Path) -> None:
    """Weight, time with what comes from it, order and quotes, quantiles and ranges."""
    text = """
        label: click
        weight: importance
        time: {name: at, format: "%Y-%m-%d %H:%M:%S", derive: [day_of_week, hour_of_day]}
        numeric: [{name: price, kind: float, dense: min_max, token: quantile, quantiles: 100}]
        categorical: [site]
        order: [site, id, price, at, importance, click]
        quoted: true
    """
    found = schema_from(yaml_file(tmp_path, text))
    assert found == Schema(
        label="click",
        weight="importance",
        time=Time(name="at", format="%Y-%m-%d %H:%M:%S", derive=("day_of_week", "hour_of_day")),
        numeric=(Numeric(name="price", kind="float", dense="min_max", token="quantile", quantiles=100),),
        categorical=(Categorical(name="site"),),
        order=("site", "id", "price", "at", "importance", "click"),
        quoted=True,
    )
    assert found.columns == ["site", "id", "price", "at", "importance", "click"]
    assert found.inputs == ["importance", "at", "price", "site"]
    assert found.text_fields == ["at", "site"]
    assert found.derived == ("day_of_week", "hour_of_day")


def test_columns_without_an_order_are_label_weight_time_numbers_categories() -> None:
    """As the schema's description says."""
    schema = Schema(weight="w", time=Time(name="t"), numeric=(Numeric(name="n"),), categorical=(Categorical(name="c"),))
    assert schema.columns == ["label", "w", "t", "n", "c"]
    assert schema.text_fields == ["c"]


def test_name_alone_is_short_for_a_time_in_seconds(tmp_path: Path) -> None:
    """`time: at` is `time: {name: at, format: unix}`, from which no field comes."""
    assert schema_from(yaml_file(tmp_path, "time: at\ncategorical: [c]\n")).time == Time(name="at", format="unix")


@pytest.mark.parametrize(
    ("separator", "quoted", "quote"),
    [("\t", None, None), (",", None, '"'), (";", None, '"'), ("|", None, None), (",", False, None), ("\t", True, '"')],
)
def test_values_of_comma_and_semicolon_separated_logs_may_stand_in_quotes(
    separator: str, quoted: bool | None, quote: str | None
) -> None:
    """Unless the schema says otherwise."""
    assert Schema(categorical=(Categorical(name="c"),), separator=separator, quoted=quoted).quote == quote


def test_field_of_the_time_alone_is_enough_to_learn_from() -> None:
    """It gets an id like any category."""
    assert Schema(time=Time(name="t", derive=("hour_of_day",))).derived == ("hour_of_day",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weight: label\ncategorical: [c]", "'label' is named twice"),
        ("weight: c\ncategorical: [c]", "'c' is named twice"),
        ("time: c\ncategorical: [c]", "'c' is named twice"),
        ("time: {name: t, derive: [hour_of_day]}\ncategorical: [hour_of_day]", "'hour_of_day' is named twice"),
        ("time: {name: t, derive: [hour_of_day, hour_of_day]}", "'hour_of_day' is named twice"),
        ("time: {name: t, derive: [minute]}\ncategorical: [c]", "'time.derive.0' got 'minute'"),
        ("time: {name: t, format: '%Y-%j'}\ncategorical: [c]", "has %j; known: unix, unix_ms"),
        ("time: {name: t, formt: unix}\ncategorical: [c]", "unknown key 'time.formt': did you mean 'format'?"),
        ("time: {format: unix}\ncategorical: [c]", "time.name"),
        ("time: t", "needs at least one categorical field or numeric field with a token"),
        ("numeric: [{name: n, token: none}]", "needs at least one categorical field or numeric field with a token"),
        ("categorical: [c]\norder: [c, label, c]", "'c' is named twice"),
        ("categorical: [c]\norder: [c]", "order lacks the field 'label'"),
        ("categorical: [c, d]\norder: [label, c]", "order lacks the field 'd'"),
        ("weight: w\ncategorical: [c]\norder: [label, c]", "order lacks the field 'w'"),
        ("categorical: [c]\nseparator: '§'", "give one ASCII character"),
        ("categorical: [c]\nseparator: ', '", "'separator' got ', '"),
        ("numeric: [{name: n, quantiles: 1}]", "'numeric.0.quantiles' got 1"),
        ("numeric: [{name: n, quantiles: 5000}]", "'numeric.0.quantiles' got 5000"),
        ("numeric: [{name: n, dense: maximum}]", "'numeric.0.dense' got 'maximum'"),
        ("numeric: [{name: n, token: log}]", "'numeric.0.token' got 'log'"),
        ("numeric: [{name: n, kind: decimal}]", "'numeric.0.kind' got 'decimal'"),
        ("categorical: [c]\nquoted: maybe", "'quoted' got 'maybe'"),
        ("time: {name: t, derive: [hour_of_day]}\ncategorical: [c]\ncrosses: [{fields: [c, hour_of_day]}]", "names"),
    ],
)
def test_new_settings_that_make_no_sense_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """In one line that names key and value."""
    with pytest.raises(BadInput) as caught:
        schema_from(yaml_file(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_criteo_layouts_are_the_same_columns() -> None:
    """The terabyte logs have the challenge's, without a header."""
    first, second = (load_schema(name, buckets=None, min_count=None, crosses=()) for name in ("criteo", "criteo-1tb"))
    assert first == second == criteo()
    assert (second.separator, second.header, second.time, second.weight) == ("\t", False, None, None)


def test_avazus_layout_is_that_of_the_challenge() -> None:
    """The header of its train.csv, but for `id`, which is no field."""
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
        "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
    )
    schema = load_schema("avazu", buckets=None, min_count=None, crosses=(("site_id", "app_id"),))
    assert [schema.label, *schema.inputs] == header.split(",")[1:]
    assert (schema.separator, schema.header, schema.label) == (",", True, "click")
    assert schema.time == Time(name="hour", format="%y%m%d%H", derive=("hour_of_day", "day_of_week"))
    assert [cross.name for cross in schema.crosses] == ["site_id_x_app_id"]


def test_settings_keep_the_time_weight_and_order_of_a_schema(tmp_path: Path) -> None:
    """Bucket and row counts change fields only."""
    text = (
        "weight: w\ntime: {name: t, format: unix_ms}\ncategorical: [c, d]\norder: [w, t, c, d, label]\nquoted: true\n"
    )
    path = yaml_file(tmp_path, text)
    changed = load_schema(str(path), buckets=77, min_count=3, crosses=(("c", "d"),))
    plain = schema_from(path)
    for name in ("weight", "time", "order", "quoted", "label", "separator", "header"):
        assert getattr(changed, name) == getattr(plain, name)
    assert {field.buckets for field in (*changed.categorical, *changed.crosses)} == {77}
