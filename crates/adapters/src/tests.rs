//! Adapters against their peers, their laws, and what they refuse.

mod decoupled;
mod fixtures;
mod golden;
mod hints;
mod laws;
mod lora;
