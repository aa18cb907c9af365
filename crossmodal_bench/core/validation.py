"""What all models of files have in common, and how pydantic's complaint becomes one sentence.

A model says which fields a file has and what they hold. ``core.files`` reads the file first, so only plain
values of bounded size arrive here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import is_path_below, shown

LARGEST = 2**63
"""Integers below this are safe for all code that reads them later."""

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "keys and values",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What a value must be, by the name of pydantic's type error."""
_NAMES = ("table", "method")
"""Fields that identify an item of a list better than its position does."""

Item = TypeVar("Item")
ModelT = TypeVar("ModelT", bound="Model")


class Model(BaseModel):
    """The content of one mapping in a file: frozen, strictly typed, without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_key(cls, content: Any) -> Any:
        # Pydantic's own message does not list the known keys.
        if isinstance(content, dict) and cls.model_config.get("extra") == "forbid":
            for key in content:
                if key not in cls.model_fields:
                    raise fault(f"is unknown{nearest(str(key), cls.model_fields)}", key)
        return content


def is_folder_name(text: str) -> bool:
    """Whether a folder can have this name: names become paths that are written, searched and removed."""
    return is_path_below(text) and len(PureWindowsPath(text).parts) == 1 and not any(c in text for c in "*?[")


def fault(what: str, *field: str | int) -> PydanticCustomError:
    """The error for a validator to raise.

    Args:
        what: the predicate of a sentence whose subject is the field: "is missing".
        field: the field, relative to the validator's own.
    """
    return PydanticCustomError("fault", "{what}", {"what": what, "field": field})


def _folder_name(text: str) -> str:
    if not is_folder_name(text):
        raise fault(f"is {shown(text)}, which cannot name a folder")
    return text


Items = Annotated[tuple[Item, ...], Strict(False)]
"""A list in the file, immutable once read."""
WholeNumber = Annotated[int, Field(gt=-LARGEST, lt=LARGEST)]
FolderName = Annotated[str, AfterValidator(_folder_name)]


def validated(model: type[ModelT], content: Any, source: str | Path) -> ModelT:
    """The content of the file ``source`` as a model.

    Raises:
        BadInput: it does not match; the message names the file, the field and the fix.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"{source}: {complaint(error, content, missing='is missing; add it')}") from error


def complaint(error: ValidationError, content: Any, missing: str = "is missing") -> str:
    """What is wrong with ``content``, in one clause: "field 'job.seed' is '0'; it must be a whole number".

    Of several faults, an unknown key comes first, since a missing field may be its correct spelling;
    otherwise the first one.

    Args:
        error: pydantic's complaint.
        content: the content that did not match.
        missing: the predicate for a missing field.
    """
    faults = error.errors(include_url=False)
    details = next((fault for fault in faults if "is unknown" in fault["msg"]), faults[0])
    field = (*details["loc"], *details.get("ctx", {}).get("field", ()))
    subject = f"field '{_path(field)}'{_named(field, content)}" if field else "its content"
    return f"{subject} {missing if details['type'] == 'missing' else _predicate(details)}"


def damaged(path: Path, what: str) -> BadInput:
    """The exception for a file whose content is not what was written."""
    return BadInput(f"{path} is damaged ({what}): delete it and run the bench again")


def _predicate(details: ErrorDetails) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    value = details["input"]
    if kind == "fault":
        return str(context["what"])
    if kind == "too_short":
        return f"lists {context['actual_length']}; it must list at least {context['min_length']}"
    if kind == "literal_error":
        return f"is {shown(value)}; it must be {context['expected']}"
    if kind in _TYPES:
        return f"is {shown(value)}; it must be {_TYPES[kind]}"
    # Limits on numbers and lengths, which pydantic words well: "Input should be less than 5".
    rule = details["msg"].partition(" should ")[2]
    return f"is {shown(value)}; it must {rule}" if rule else f"is {shown(value)}, which is not allowed"


def _path(field: Sequence[str | int]) -> str:
    """``rows[2].method``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:60]}" for step in field if step != "[key]")
    return "".join(steps).removeprefix(".")


def _named(field: Sequence[str | int], content: Any) -> str:
    """ " (table '1', method 'A')": the names of the list items that lead to the field."""
    names: dict[str, str] = {}
    for step in field:
        if isinstance(content, Mapping) and step in content:
            content = content[step]
        elif isinstance(content, Sequence) and isinstance(step, int) and step < len(content):
            content = content[step]
            if isinstance(content, Mapping):
                names |= {name: content[name] for name in _NAMES if isinstance(content.get(name), str)}
        else:
            break
    return f" ({', '.join(f'{name} {shown(value)}' for name, value in names.items())})" if names else ""
