"""This module has the constants of the damped Newton's method by which `davidson` and `plackett_luce` fit ratings.

Each Newton step is halved until it no longer lowers the log-posterior (backtracking line search). The method ends when
a step is shorter than STEP_TOLERANCE.

Source: Nocedal and Wright 2006, "Numerical optimization", chapter 3.
"""

MAX_STEPS = 200  # about ten are usual
MAX_HALVINGS = 30  # of one step, which is then 1e-9 of its length
DECREASE_TOLERANCE = 1e-9  # a log-posterior that falls by a smaller share of itself may have fallen by rounding alone
STEP_TOLERANCE = 1e-10  # log-odds: the fit has converged when all components of a step are smaller
# Log-odds: without a prior, a parameter beyond it shows that there is no maximum. It stands for winning all but one of
# 3 million games.
MAX_LOG_ODDS = 15.0
NOT_CONVERGED = "the search for the ratings did not converge; use a prior, or a smaller one"
