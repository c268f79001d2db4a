"""The recipes that come with flywheel, found as package data of ``flywheel.recipes``."""

if not __name__.startswith("flywheel."):
    raise ImportError("this folder is the package flywheel.recipes; import it under that name")
