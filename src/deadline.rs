#[derive(Debug)]
pub struct Deadline;
