"""Tables in; statistics, figures and reports out. Nothing here samples, or knows a network or an estimator."""
