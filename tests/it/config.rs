//! Settings from files, environment and arguments.

mod cascade;
mod complete;
mod example;
mod golden;
mod hostile;
mod hostile_files;
mod messages;
mod per_task;
mod reload;
mod round_trip;
mod stacks;
mod typed;
mod typed_all;
