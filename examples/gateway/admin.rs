//! The status page. The policies need not know of it: objects with a name register themselves.

use std::net::SocketAddr;

use buttress::BoxError;

/// Serves the page until what it returns is dropped.
#[cfg(feature = "admin")]
pub(crate) fn listen(
    addr: Option<SocketAddr>,
) -> Result<Option<buttress::admin::AdminListener>, BoxError> {
    use buttress::admin::Admin;
    use buttress::control::Registry;

    let Some(addr) = addr else { return Ok(None) };
    let registry = Registry::global();
    let mut admin = Admin::builder(&registry);
    if let Ok(token) = std::env::var("BUTTRESS_ADMIN_TOKEN") {
        admin = admin.token(token);
    }
    let page = admin.build()?.listen(addr)?;
    println!("status page: http://{}/", page.addr());
    Ok(Some(page))
}

#[cfg(not(feature = "admin"))]
pub(crate) fn listen(
    addr: Option<SocketAddr>,
) -> Result<Option<std::convert::Infallible>, BoxError> {
    match addr {
        Some(_) => Err("--admin is there only with `cargo run --features admin`".into()),
        None => Ok(None),
    }
}
