"""From weakly-labelled pathology patches to curated composites with pixel masks, in Zarr."""
