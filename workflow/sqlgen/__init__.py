"""The generator of text-to-SQL questions; README.md in this folder explains it. Other code imports only these names.

sources = builtin_sources(["library", "zoo"], Path("databases"), seed=0)
request = GenerationRequest(100, classes={"Simple": 1.0}, styles={"formal": 1.0}, seed=0)
rows = generate(sources, request, Limits(), workers=2, work=Path("work"))
"""

from sqlgen.corpus import generate
from sqlgen.generate import GenerationRequest
from sqlgen.sources import Source, builtin_sources, folder_sources, write_benchmark

__all__ = ["GenerationRequest", "Source", "builtin_sources", "folder_sources", "generate", "write_benchmark"]
