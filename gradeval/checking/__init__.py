"""CHECK: `check`, an estimator's claims on small problems whose exact gradients are known."""
