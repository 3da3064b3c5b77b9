"""The paper: which transitions are predicted (eq. 4), with which loss (eqs. 6-9), and how much they count (eq. 10)."""
