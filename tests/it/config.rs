//! Settings from files, environment and arguments.

mod cascade;
mod golden;
mod messages;
mod reload;
mod round_trip;
mod stacks;
mod typed;
