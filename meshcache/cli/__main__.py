"""``python -m meshcache.cli``: the command, where the script ``meshcache`` is not on the path."""

from . import main

main()
