use std::fmt;
use std::sync::Arc;

/// Whose keys these are: two tenants that choose the same key must not get each other's answers. Take it
/// from whom the caller was shown to be, never from what the request says of itself.
///
/// ```
/// use buttress::idempotency::Scope;
/// assert_ne!(Scope::tenant("a"), Scope::tenant("b"));
/// assert_ne!(Scope::global(), Scope::tenant(""));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(Arc<[u8]>);

impl Scope {
    /// One space of keys for everybody. To be written out where all callers trust each other, or where the
    /// key itself says whose it is.
    ///
    /// ```
    /// use buttress::idempotency::Scope;
    /// assert_eq!(Scope::global(), Scope::global());
    /// ```
    #[must_use]
    pub fn global() -> Self {
        Self(Arc::new([0]))
    }

    /// The keys of one tenant.
    ///
    /// ```
    /// use buttress::idempotency::Scope;
    /// let scope = Scope::tenant("account-7");
    /// ```
    #[must_use]
    pub fn tenant(tenant: impl AsRef<[u8]>) -> Self {
        Self([&[1], tenant.as_ref()].concat().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// A tenant's name is not for logs.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self.0 == [0] { "Scope::Global" } else { "Scope::Tenant" })
    }
}
