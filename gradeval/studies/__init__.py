"""COST and SWEEP: what one draw costs; evaluations of many networks."""
