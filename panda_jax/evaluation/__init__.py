"""How good a generated panorama is: metrics that know it is a sphere."""
