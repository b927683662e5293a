"""Training of LoFTR on synthetic views with exact correspondences."""
