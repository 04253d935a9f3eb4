#[derive(Debug)]
pub struct Quota;
