"""`python -m bouchet_core.schemas FOLDER`: write JSON schemas of the catalog and site files, for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .config.catalog import CatalogDocument
from .config.site import Site

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# file name -> its title and model
SCHEMAS: dict[str, tuple[str, type[BaseModel]]] = {
    "models.schema.json": ("models.yaml: the model catalog", CatalogDocument),
    "site.schema.json": ("sites/*.yaml: one cluster", Site),
}


def schema_text(file: str) -> str:
    """Return the JSON schema for that file."""
    title, model = SCHEMAS[file]
    schema: dict[str, Any] = {"$schema": DIALECT, **model.model_json_schema(by_alias=True), "title": title}
    return json.dumps(schema, indent=2) + "\n"


def main(folder: Path) -> None:
    """Write all schemas into the folder."""
    folder.mkdir(exist_ok=True)
    for file in SCHEMAS:
        (folder / file).write_text(schema_text(file), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
