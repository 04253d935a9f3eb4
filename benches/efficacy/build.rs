//! `getrandom` is looked up by name at run time: the binary must export its own.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-rdynamic");
}
