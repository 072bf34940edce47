"""Where the playground's parts are."""

PAGE = "/playground"
PLAYGROUND = "/playground/"
ASSETS = "/playground/static/"
DATA = "/playground/data"
WITHOUT = "/playground/score-without"
