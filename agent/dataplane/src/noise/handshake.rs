//! The handshake's cryptography: Noise IKpsk2 with an all-zero preshared key (whitepaper sections 5.4.2 to 5.4.5).
//! It keeps no state of a tunnel, judges no timestamp, and leaves both MACs to `cookie`.

use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use super::crypto::{self, Secret, hash, kdf};
use super::message::{
    INITIATION, INITIATION_BYTES, RESPONSE, RESPONSE_BYTES, initiation, read_u32, response,
    write_u32,
};
use super::timestamp::{TIMESTAMP_BYTES, Timestamp};

/// Both static keys, and what they make together.
pub(super) struct Identity {
    private: StaticSecret,
    pub(super) public: PublicKey,
    pub(super) peer: PublicKey,
    /// `None` for a peer key of low order: there is no handshake with such a peer.
    shared: Option<SharedSecret>,
}

impl Identity {
    pub(super) fn new(private: &StaticSecret, peer: PublicKey) -> Self {
        Self {
            private: private.clone(),
            public: PublicKey::from(private),
            peer,
            shared: agree(private, &peer),
        }
    }
}

/// An initiation that waits for its response.
pub(super) struct Pending {
    /// Our receiver index in it.
    pub(super) index: u32,
    ephemeral: StaticSecret,
    transcript: Transcript,
}

/// An authentic initiation of the peer; whether it is fresh, its timestamp tells.
pub(super) struct Initiation {
    pub(super) timestamp: Timestamp,
    sender: u32,
    ephemeral: PublicKey,
    transcript: Transcript,
}

/// What a completed handshake gives.
pub(super) struct Agreed {
    /// Our receiver index.
    pub(super) local: u32,
    /// The peer's receiver index.
    pub(super) remote: u32,
    pub(super) sending: Secret,
    pub(super) receiving: Secret,
}

/// Writes an initiation but for its MACs. `None` if the keys allow none.
pub(super) fn initiate(
    identity: &Identity,
    index: u32,
    ephemeral: StaticSecret,
    timestamp: Timestamp,
    message: &mut [u8; INITIATION_BYTES],
) -> Option<Pending> {
    message.fill(0);
    write_u32(message, 0, INITIATION);
    write_u32(message, initiation::SENDER, index);
    let public = PublicKey::from(&ephemeral);
    message[initiation::EPHEMERAL].copy_from_slice(public.as_bytes());

    let mut transcript = Transcript::new(&identity.peer);
    transcript.mix_ephemeral(&public);
    let key = transcript.mix_key(agree(&ephemeral, &identity.peer)?.as_bytes());
    let room = &mut message[initiation::STATIC];
    room[..32].copy_from_slice(identity.public.as_bytes());
    transcript.seal(&key, room);
    let key = transcript.mix_key(identity.shared.as_ref()?.as_bytes());
    let room = &mut message[initiation::TIMESTAMP];
    room[..TIMESTAMP_BYTES].copy_from_slice(&timestamp.to_bytes());
    transcript.seal(&key, room);
    Some(Pending {
        index,
        ephemeral,
        transcript,
    })
}

/// Reads an initiation; `None` if it is not from the peer.
pub(super) fn read_initiation(
    identity: &Identity,
    message: &[u8; INITIATION_BYTES],
) -> Option<Initiation> {
    let ephemeral = public_key(&message[initiation::EPHEMERAL])?;
    let mut transcript = Transcript::new(&identity.public);
    transcript.mix_ephemeral(&ephemeral);
    let key = transcript.mix_key(agree(&identity.private, &ephemeral)?.as_bytes());
    let claimed: [u8; 32] = transcript.open(&key, &message[initiation::STATIC])?;
    // Public, so the comparison may take as long as it likes; that the sender has the private key, the next field proves.
    if claimed != *identity.peer.as_bytes() {
        return None;
    }
    let key = transcript.mix_key(identity.shared.as_ref()?.as_bytes());
    let timestamp = transcript.open(&key, &message[initiation::TIMESTAMP])?;
    Some(Initiation {
        timestamp: Timestamp::from_bytes(timestamp),
        sender: read_u32(message, initiation::SENDER)?,
        ephemeral,
        transcript,
    })
}

/// Writes the response to an initiation but for its MACs. `None` if the keys allow none.
pub(super) fn respond(
    identity: &Identity,
    mut initiation: Initiation,
    index: u32,
    ephemeral: &StaticSecret,
    message: &mut [u8; RESPONSE_BYTES],
) -> Option<Agreed> {
    message.fill(0);
    write_u32(message, 0, RESPONSE);
    write_u32(message, response::SENDER, index);
    write_u32(message, response::RECEIVER, initiation.sender);
    let public = PublicKey::from(ephemeral);
    message[response::EPHEMERAL].copy_from_slice(public.as_bytes());

    let transcript = &mut initiation.transcript;
    transcript.mix_ephemeral(&public);
    transcript.mix(agree(ephemeral, &initiation.ephemeral)?.as_bytes());
    transcript.mix(agree(ephemeral, &identity.peer)?.as_bytes());
    let key = transcript.mix_preshared();
    transcript.seal(&key, &mut message[response::NOTHING]);
    let [receiving, sending] = transcript.split();
    Some(Agreed {
        local: index,
        remote: initiation.sender,
        sending,
        receiving,
    })
}

/// Reads the response to `pending`; `None` if it is not the peer's answer to that.
pub(super) fn read_response(
    identity: &Identity,
    pending: &Pending,
    message: &[u8; RESPONSE_BYTES],
) -> Option<Agreed> {
    if read_u32(message, response::RECEIVER)? != pending.index {
        return None;
    }
    let ephemeral = public_key(&message[response::EPHEMERAL])?;
    // A forged response must not spoil the transcript that the true one needs.
    let mut transcript = pending.transcript.clone();
    transcript.mix_ephemeral(&ephemeral);
    transcript.mix(agree(&pending.ephemeral, &ephemeral)?.as_bytes());
    transcript.mix(agree(&identity.private, &ephemeral)?.as_bytes());
    let key = transcript.mix_preshared();
    let _nothing: [u8; 0] = transcript.open(&key, &message[response::NOTHING])?;
    let [sending, receiving] = transcript.split();
    Some(Agreed {
        local: pending.index,
        remote: read_u32(message, response::SENDER)?,
        sending,
        receiving,
    })
}

/// DH; `None` for a public key of low order, whose result everybody knows (RFC 7748 section 6.1).
fn agree(private: &StaticSecret, public: &PublicKey) -> Option<SharedSecret> {
    let shared = private.diffie_hellman(public);
    shared.was_contributory().then_some(shared)
}

fn public_key(bytes: &[u8]) -> Option<PublicKey> {
    bytes.first_chunk().map(|bytes| PublicKey::from(*bytes))
}

/// The chaining key and the hash of everything said so far.
#[derive(Clone)]
struct Transcript {
    chaining_key: Secret,
    hash: [u8; 32],
}

impl Transcript {
    fn new(responder: &PublicKey) -> Self {
        let chaining_key = hash(CONSTRUCTION, &[]);
        let prologue = hash(&chaining_key, IDENTIFIER);
        Self {
            chaining_key: Zeroizing::new(chaining_key),
            hash: hash(&prologue, responder.as_bytes()),
        }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&self.hash, bytes);
    }

    /// The patterns with a preshared key mix ephemeral keys into both (Noise section 9.2).
    fn mix_ephemeral(&mut self, public: &PublicKey) {
        self.mix_hash(public.as_bytes());
        self.mix(public.as_bytes());
    }

    fn mix(&mut self, input: &[u8]) {
        [self.chaining_key] = kdf(&self.chaining_key, input);
    }

    fn mix_key(&mut self, input: &[u8]) -> Secret {
        let [chaining_key, key] = kdf(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        key
    }

    fn mix_preshared(&mut self) -> Secret {
        let [chaining_key, mixed, key] = kdf(&self.chaining_key, &[0; 32]);
        self.chaining_key = chaining_key;
        self.mix_hash(&*mixed);
        key
    }

    fn seal(&mut self, key: &Secret, room: &mut [u8]) {
        crypto::seal(key, room, &self.hash);
        self.mix_hash(room);
    }

    fn open<const N: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Option<[u8; N]> {
        let text = crypto::open(key, sealed, &self.hash)?;
        self.mix_hash(sealed);
        Some(text)
    }

    /// The initiator's sending key, and the responder's.
    fn split(&self) -> [Secret; 2] {
        kdf(&self.chaining_key, &[])
    }
}

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
