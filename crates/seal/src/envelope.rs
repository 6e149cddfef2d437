//! The content key on its way to one worker: HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! ChaCha20-Poly1305.

use std::convert::Infallible;

use hkdf::Hkdf;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
    setup_receiver, setup_sender_with_rng,
};
use protocol::{Envelope, Hash, PublicKey, SealPublicKey, SealingKey, SecretKey, seal::ENVELOPE_BYTES};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{ContentKey, SealError};

type Suite = X25519HkdfSha256;

/// Bytes of the encapsulated key, which stand first in an envelope.
const ENCAPSULATED_BYTES: usize = 32;

/// The X25519 key that opens a worker's envelopes.
#[derive(Clone)]
pub struct OpeningKey {
    secret: <Suite as Kem>::PrivateKey,
    public: SealPublicKey,
}

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpeningKey(of {})", self.public)
    }
}

impl OpeningKey {
    /// The key that belongs to a worker's signing key: derived from its seed, so that a worker with its key file opens what was
    /// sealed to it before a restart, and so that there is no second file to lose. The two curves' keys are independent.
    pub fn of(worker: &SecretKey) -> Self {
        let pair = Zeroizing::new(worker.to_pair());
        let mut material = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"plexus/sealing-key/v1"), &pair[..32])
            .expand(b"x25519", &mut *material)
            .expect("one block of SHA-256");
        let (secret, public) = Suite::derive_keypair(&*material);
        let bytes = public.to_bytes().into();
        Self { secret, public: SealPublicKey(bytes) }
    }

    /// What others seal to.
    pub fn public(&self) -> SealPublicKey {
        self.public
    }
}

/// What an envelope is for, beside its context: one worker in one market.
fn info(market: PublicKey, worker: PublicKey) -> Vec<u8> {
    [&b"plexus/envelope/v1\0"[..], &market.0, &worker.0].concat()
}

/// Seals a content key to a worker's record, for `context` alone. The record was checked before; `fresh` are random bytes that
/// are used for nothing else.
///
/// # Errors
///
/// [`SealError::Recipient`] when the record's key is a point of small order.
pub fn seal_key(
    content: &ContentKey,
    record: &SealingKey,
    context: &Hash,
    fresh: [u8; 32],
) -> Result<Envelope, SealError> {
    let recipient = <Suite as Kem>::PublicKey::from_bytes(&record.key.0).map_err(|_| SealError::Recipient)?;
    let info = info(record.market, record.worker);
    let (encapsulated, mut sealing) = setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeS::Base,
        &recipient,
        &info,
        &mut Once(Some(fresh)),
    )
    .map_err(|_| SealError::Recipient)?;
    let sealed = sealing.seal(content.as_bytes(), &context.0).map_err(|_| SealError::Recipient)?;
    let mut envelope = [0; ENVELOPE_BYTES];
    envelope[..ENCAPSULATED_BYTES].copy_from_slice(&encapsulated.to_bytes());
    envelope[ENCAPSULATED_BYTES..].copy_from_slice(&sealed);
    Ok(Envelope(envelope))
}

/// Opens an envelope that was sealed to `worker` in `market`, for `context`.
///
/// # Errors
///
/// [`SealError::Envelope`] when it was sealed to another key or for anything else, or was changed.
pub fn open_key(
    key: &OpeningKey,
    market: PublicKey,
    worker: PublicKey,
    context: &Hash,
    envelope: &Envelope,
) -> Result<ContentKey, SealError> {
    let (encapsulated, sealed) = envelope.0.split_at(ENCAPSULATED_BYTES);
    let opened = || {
        let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
        let info = info(market, worker);
        let mut opening = setup_receiver::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeR::Base,
            &key.secret,
            &encapsulated,
            &info,
        )
        .ok()?;
        let opened = Zeroizing::new(opening.open(sealed, &context.0).ok()?);
        Some(ContentKey::from_bytes(opened.as_slice().try_into().ok()?))
    };
    opened().ok_or(SealError::Envelope)
}

/// Random bytes that somebody else drew, as the generator that HPKE asks for its ephemeral key. They are given once.
struct Once(Option<[u8; 32]>);

impl TryRng for Once {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("an ephemeral key takes bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("an ephemeral key takes bytes")
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        let mut fresh = self.0.take().expect("an ephemeral key takes its bytes once");
        bytes.copy_from_slice(&fresh);
        fresh.zeroize();
        Ok(())
    }
}

impl TryCryptoRng for Once {}
