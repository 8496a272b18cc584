//! scipy's and statsmodels' numbers, rates over simulated studies, and what is refused.

mod edges;
mod peers;
mod simulation;
