"""Write ``croissant.json``, the data card for machines, in MLCommons' format Croissant 1.0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from synthpipe.report.data_cards.facts import CardFacts
from synthpipe.report.data_cards.readme import CITATION, NO_LICENSE, USE, about, keywords, limits, title

Node = Mapping[str, Any]

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(facts: CardFacts, files: Sequence[Node], records: Sequence[Node]) -> str:
    """Return the Croissant description of a set as JSON-LD text.

    Parameters
    ----------
    facts : CardFacts
        The facts about the set.
    files : sequence of mapping
        The files beside the description, each from `file_object` or `file_set`.
    records : sequence of mapping
        The records in these files, each from `record_set`. A record set of the classes is always added.
    """
    data = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": title(facts).replace(":", ""),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": about(facts),
        "license": facts.license or NO_LICENSE,
        "url": "https://arxiv.org/abs/2412.20924",
        "version": f"1.0.0+{facts.digest[:12]}",
        "citeAs": CITATION,
        "keywords": [*keywords(facts), "segmentation", *facts.taxonomy.names],
        "rai:dataUseCases": USE,
        "rai:dataLimitations": list(limits(facts)),
        "distribution": list(files),
        "recordSet": [_classes(facts), *records],
    }
    return json.dumps(data, indent=1) + "\n"


def file_object(name: str, url: str, encoding: str, sha256: str, description: str) -> Node:
    """Return the Croissant description of one file."""
    return {
        **{"@type": "cr:FileObject", "@id": name, "name": name, "description": description},
        **{"contentUrl": url, "encodingFormat": encoding, "sha256": sha256},
    }


def file_set(name: str, pattern: str, encoding: str, description: str, within: str | None = None) -> Node:
    """Return the Croissant description of the files that a shell pattern matches.

    The files are in the folder of ``croissant.json``, or in the archives of the file set `within`.
    """
    inside = {"containedIn": {"@id": within}} if within else {}
    return {
        **{"@type": "cr:FileSet", "@id": name, "name": name, "description": description, **inside},
        **{"encodingFormat": encoding, "includes": pattern},
    }


def record_set(name: str, description: str, *fields: Node, key: str | None = None) -> Node:
    """Return the Croissant description of records with these fields."""
    with_key = {"key": {"@id": f"{name}/{key}"}} if key else {}
    named = [{**field, "@id": f"{name}/{field['name']}"} for field in fields]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, **with_key, "field": named}


def field(name: str, kind: str, description: str, source: Node | None = None, **more: Any) -> Node:
    """Return the Croissant description of a record's field.

    Parameters
    ----------
    name : str
        The field's name.
    kind : str
        The data type, such as ``sc:Text``.
    description : str
        The meaning of the field, for people.
    source : mapping, optional
        The location of the values, as from `from_file`.
    **more
        Further keys of the description.
    """
    found = {"source": source} if source else {}
    return {"@type": "cr:Field", "name": name, "dataType": kind, "description": description, **found, **more}


def from_file(files: str, what: str) -> Node:
    """Return the source of a field. `what` is the ``filename`` or the ``content`` of each file in a file set."""
    return {"fileSet": {"@id": files}, "extract": {"fileProperty": what}}


def _classes(facts: CardFacts) -> Node:
    taxonomy = facts.taxonomy
    colors = [tissue.color for tissue in taxonomy.classes] + [taxonomy.background_color]
    rows = [
        {"classes/index": index, "classes/name": name, "classes/color": "#{:02x}{:02x}{:02x}".format(*color)}
        for index, (name, color) in enumerate(zip([*taxonomy.names, "background"], colors, strict=True))
    ]
    fields = (
        field("index", "sc:Integer", "value of the class in masks"),
        field("name", "sc:Text", "name of the tissue class; losses and metrics must ignore the background"),
        field("color", "sc:Text", "colour of the class in palettes and overlays"),
    )
    return {**record_set("classes", "meaning of the values of masks", *fields, key="index"), "data": rows}
