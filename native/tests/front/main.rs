//! What clients see of the front door: hits, what is handed over, and how connections end.

mod alive;
mod ending;
mod hits;
mod listening;
mod odd;
mod slow;
mod stage;
