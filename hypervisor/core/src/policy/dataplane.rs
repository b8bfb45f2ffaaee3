//! What a program may ask of `set_dataplane`.

use cloister_abi::Dataplane;
use cloister_abi::hypercall::Error;

/// The flags that the argument `bits` asks for, with those that they imply,
/// for a partition whose manifest lists `allowed`.
///
/// # Errors
/// [`Error::InvalidArgument`] for a bit that is no flag, [`Error::NotAllowed`]
/// for a flag that neither `allowed` nor what it implies has.
pub fn accept(bits: u64, allowed: Dataplane) -> Result<Dataplane, Error> {
    let flags = Dataplane::from_bits(bits).ok_or(Error::InvalidArgument)?;
    let flags = flags.with_implied();
    if allowed.with_implied().contains(flags) {
        Ok(flags)
    } else {
        Err(Error::NotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_refusals() {
        let all = Dataplane::all();
        assert_eq!(accept(0, Dataplane::empty()), Ok(Dataplane::empty()));
        assert_eq!(
            accept(2, Dataplane::STRICT),
            Ok(Dataplane::STRICT | Dataplane::QUIESCE)
        );
        assert_eq!(accept(1, Dataplane::DEBUG), Ok(Dataplane::QUIESCE));
        assert_eq!(accept(8, Dataplane::STRICT), Err(Error::NotAllowed));
        assert_eq!(accept(0x10, all), Err(Error::InvalidArgument));
        assert_eq!(accept(1 << 63 | 1, all), Err(Error::InvalidArgument));
    }
}
