"""Word lists of the shop's search and reward."""

from __future__ import annotations

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to
was will with
"""
_COLORS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire
seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white
wine yellow
"""
_NO_NOUNS = """
a about above across after again against all almost alone along already also although always am among an and any are
around as at back be became because been before being below between both but by can could did do does doing done down
during each either else empty enough even ever every few for from front full further get give go had has have he her
here hers him his how if in into is it its itself just keep last least less made make many may me might mine more most
move much must my name never next no none nor not nothing now of off often on once one only onto or other our out over
own part per please put quite rather re really same see seem several she show side since so some still such take than
that the their them then there these they this those three through to together too top toward two under until up upon
us use used using various very via was we well were what when where whether which while who whole why will with within
without would yet you your yours
"""

STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that Lucene's English analysis leaves out."""
COLORS = tuple(_COLORS.split())
"""Colours that WebShop's reward knows, in the order in which it looks for them."""
NO_NOUNS = frozenset(_NO_NOUNS.split())
"""Words of a title that are not taken for nouns."""
