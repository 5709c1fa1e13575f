"""How the demo is shown: ``live`` in a terminal, ``plain`` in lines, ``document`` as JSON.  They read the board and change nothing."""
