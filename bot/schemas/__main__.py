"""`python -m bot.schemas`: write every schema."""

from bot import schemas

for name, model in schemas.models().items():
    schemas.path(name).write_text(schemas.text(model), encoding="utf-8")
