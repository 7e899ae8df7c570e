"""What several commands are given in the same words."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in YAML; see configs/.")]
ConfigFiles = Annotated[list[Path], typer.Argument(help="Configuration files.", show_default=False)]
Inputs = Annotated[list[str], typer.Argument(help="Files, globs or object-store addresses.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings such as train.epochs=3.", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting such as prepare.test=0.2; repeatable.")]
Model = Annotated[str, typer.Argument(help="A run, an exported SavedModel, or models:/ctr@champion.")]
EngineName = Annotated[str, typer.Option("--engine", help="local or ray.")]
RayAddress = Annotated[str | None, typer.Option(help="Of a Ray cluster, HOST:PORT; default: RAY_ADDRESS, or Ray here.")]
Alias = Annotated[str, typer.Option(help="The alias to move; `previous` (`previous-X` for any other X) moves with it.")]
