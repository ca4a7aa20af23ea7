//! What the guard tells leaktrace.

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It can close the gate from now on.
    Ready,
    /// It had to close what a window had opened.
    Closed,
    /// It had to close raw slots that were kept open.
    ClosedRaw,
    /// An order was followed; or the error number of what was in the way, where that is not 0.
    Done(i32),
}

impl Message {
    /// Bytes of a message.
    pub(super) const BYTES: usize = 8;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Ready => (0, 0),
            Self::Closed => (1, 0),
            Self::Done(errno) => (2, errno),
            Self::ClosedRaw => (3, 0),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0] = kind;
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, _, _, _, a, b, c, d] = bytes;
        match kind {
            0 => Some(Self::Ready),
            1 => Some(Self::Closed),
            2 => Some(Self::Done(i32::from_ne_bytes([a, b, c, d]))),
            3 => Some(Self::ClosedRaw),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn what_is_told_is_understood() {
        for message in [
            Message::Ready,
            Message::Closed,
            Message::ClosedRaw,
            Message::Done(0),
            Message::Done(3),
        ] {
            assert_eq!(Message::from_bytes(message.to_bytes()), Some(message));
        }
        assert_eq!(Message::from_bytes([9; Message::BYTES]), None);
    }
}
