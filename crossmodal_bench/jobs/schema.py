"""The schema of the YAML files in ``experiments/``: methods, data sets and suites."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from crossmodal_bench.core.files import shown
from crossmodal_bench.core.validation import FolderName, Items, Model, WholeNumber, fault

Preset = Literal["smoke", "small", "paper", "tuned"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


def _settable(section: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    arguments = section.get("model", {}).get("init_args", {})
    if not isinstance(arguments, dict):
        raise fault(f"is {shown(arguments)}; it must be keys and values", "model", "init_args")
    return section


Section = Annotated[dict[str, dict[str, Any]], AfterValidator(_settable)]
"""A piece of a configuration: free-form, except for the parts into which other pieces are merged."""


class ExperimentFile(Model):
    """A piece of a configuration for each preset.

    ``tuned`` is what we selected on validation beyond a paper's settings: it modifies ``paper``, in the files
    of methods and data sets alike.
    """

    smoke: Section = Field(default_factory=dict)
    small: Section = Field(default_factory=dict)
    paper: Section = Field(default_factory=dict)
    tuned: Section = Field(default_factory=dict)

    def section(self, preset: str) -> Section:
        """The piece for a preset."""
        section: Section = getattr(self, preset)
        return section


class MethodFile(ExperimentFile):
    """``methods/*.yaml``: a method's settings.

    Args:
        title: its name in tables; required without a ``base``.
        base: the method on whose configuration it is based.
        class_path: another class for its model.
        ablation: the method without its adversary.
        parents: the methods whose trained weights it starts from.
        datasets: what differs on a data set, for all presets or for one.
        override: what applies to every data set and preset.
    """

    title: str = ""
    base: str | None = None
    class_path: str | None = None
    ablation: str | None = None
    parents: Items[str] = ()
    datasets: dict[str, dict[Literal["all"] | Preset, Section]] = Field(default_factory=dict)
    override: Section = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_title(self) -> MethodFile:
        if not self.title and self.base is None:
            raise fault("is missing; add it", "title")
        return self


class Reader(Model):
    """The class that reads a data set, and its arguments."""

    class_path: str
    init_args: dict[str, Any] = Field(default_factory=dict)


class DataSettings(Model):
    """Settings of the data module, which defines the available ones itself."""

    model_config = ConfigDict(extra="allow")

    dataset: Reader


class DatasetFile(ExperimentFile):
    """``datasets/*.yaml``: a data set's settings.

    Args:
        title: a one-line description.
        licence: what its owners are known to say about its use, for the cards of models trained on it.
        free: whether its pictures and sentences may be freely redistributed.
        data: settings of the data module.
        protocols: what differs between protocols, by their names, if a data set has several.
    """

    title: str = ""
    licence: str = ""
    free: bool = False
    data: DataSettings
    protocols: dict[str, Section] = Field(default_factory=dict)


class SuiteRow(Model):
    """A row of a suite: a method with overrides; ``label`` distinguishes it from the method's other rows."""

    method: FolderName
    overrides: dict[str, Any] = Field(default_factory=dict)
    label: str = ""


class MemberRow(SuiteRow):
    """A job of an ensemble. ``seed`` None means the ensemble's; ``label`` names its row as a single model."""

    seed: WholeNumber | None = None


class EnsembleRow(Model):
    """Models whose similarities are summed, and the method that they form together.

    ``label`` says what is summed, as in "t2i + i2t".
    """

    method: FolderName
    label: Annotated[str, Field(min_length=1)]
    members: Annotated[Items[MemberRow], Field(min_length=2)]


class ParameterSweep(Model):
    """A row for each value of each key, with all other keys at the method's values."""

    method: FolderName
    keys: dict[str, list[Any]]


class GridSearch(Model):
    """A row for each combination of the values of several keys, of which the best is saved.

    ``writes`` names the method file created from it, in the data set's folder in RUNS.
    """

    method: FolderName
    keys: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    writes: FolderName


class SuiteFile(Model):
    """``suites/*.yaml``: the rows of a paper's table, or of an experiment.

    Args:
        description: what it shows.
        datasets: where it runs unless the command names a data set.
        protocols: which of a data set's protocols to run; all if this is None or the data set has none of
            them.
        methods: rows of methods without changes.
        seeds: how many, unless the command says.
        preset: what the preset ``auto`` means.
        presets: the same by data set; takes precedence over ``preset``.
        evaluate: the split that its numbers come from: ``val`` for selecting hyperparameters.
        overrides: for every row.
        rows: rows of methods with their own overrides.
        parameter_sweep: rows that differ in one value.
        grid: rows of every combination of values; needs ``evaluate: val``.
        ensembles: sums of several models.
    """

    description: str = ""
    datasets: Items[str] = ()
    protocols: Items[str] | None = None
    methods: Items[FolderName] = ()
    seeds: Annotated[WholeNumber, Field(ge=1)] | None = None
    preset: Preset | None = None
    presets: dict[str, Preset] = Field(default_factory=dict)
    evaluate: Literal["test", "val"] = "test"
    overrides: dict[str, Any] = Field(default_factory=dict)
    rows: Items[SuiteRow] = ()
    parameter_sweep: ParameterSweep | None = None
    grid: GridSearch | None = None
    ensembles: Items[EnsembleRow] = ()

    @model_validator(mode="after")
    def _chooses_on_validation(self) -> SuiteFile:
        if self.grid is not None and self.evaluate != "val":
            raise fault(f"is {self.evaluate}; a grid selects hyperparameters, so set it to val", "evaluate")
        return self
