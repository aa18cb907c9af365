"""The plugin of the README, as its readers write it: a module and a YAML file in a folder of their own."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def write_plugin(folder: Path) -> None:
    """``my_package.py`` and ``bilinear.yaml``, word for word."""
    module, settings = re.findall(r"```(?:python|yaml)\n(.*?)```", _section(), re.DOTALL)[:2]
    (folder / "my_package.py").write_text(module)
    (folder / "bilinear.yaml").write_text(settings)


def command() -> list[str]:
    """The words of the README's command, without the program's name."""
    (line,) = re.findall(r"```bash\ncrossmodal-bench (.*?)\n```", _section())
    return str(line).split()


def _section() -> str:
    return README.read_text(encoding="utf-8").split("## Adding a method")[1].split("### A data set")[0]
