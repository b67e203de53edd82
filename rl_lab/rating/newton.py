"""The limits of the damped Newton's method by which ratings are fitted: a step that lowers the posterior is halved.

Source: Nocedal and Wright 2006, "Numerical optimization", chapter 3.
"""

MOST_STEPS = 200  # about ten are usual
HALVINGS = 30  # of one step, which is then 1e-9 of its length
WORSE = 1e-9  # a log-posterior that is lower by more than this share of itself is worse; less may be rounding
TOLERANCE = 1e-10  # log-odds: a step below it has converged
# Log-odds: without a prior, a parameter beyond it shows that there is no maximum. It stands for winning all but one of
# 3 million games.
FARTHEST = 15.0
NOT_CONVERGED = "the search for the ratings did not converge; use a prior, or a smaller one"
