//! Names for errors, by which logs can be counted.

use pccl::{CollectiveError, ConnectError, Gone, MembershipError, SyncError};

use crate::event::Lost;

/// The name of the variant, of `Gone` the inner one.
pub(super) fn class<E: Classed>(error: &E) -> String {
    if let Some(gone) = error.gone() {
        return class(gone);
    }
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Errors that may say that this membership is over.
pub(super) trait Classed: std::fmt::Debug {
    fn gone(&self) -> Option<&Gone>;
}

impl Classed for Gone {
    fn gone(&self) -> Option<&Gone> {
        None
    }
}

macro_rules! classed {
    ($($error:ident),*) => {$(
        impl Classed for $error {
            fn gone(&self) -> Option<&Gone> {
                match self {
                    $error::Gone(gone) => Some(gone),
                    _ => None,
                }
            }
        }
    )*};
}

classed!(CollectiveError, ConnectError, MembershipError, SyncError);

/// Whom an error names as lost.
pub(super) fn lost(error: &CollectiveError) -> Vec<Lost> {
    let CollectiveError::PeersLost { lost } = error else {
        return Vec::new();
    };
    lost.iter()
        .map(|lost| Lost {
            id: lost.peer.id.0,
            label: lost.peer.label.clone(),
            reason: lost.reason.clone(),
        })
        .collect()
}
