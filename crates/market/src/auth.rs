//! Who is asking: login by a signed message, and the tokens that follow from it.
//!
//! A login signs a Sign-In With Solana message that this server wrote. The message names the host that the client talks to, so
//! that a wallet shows where it logs in, and only hosts that are known as this market's are ever written into one: otherwise
//! a stranger's page could pass our message on and use the signature here. Challenges are answered once and kept in memory:
//! after a restart clients ask for a new one.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError, RwLock},
};

use api::{Challenge, ChallengeRequest, LoginRequest, Session, code};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use engine::Command;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use protocol::{PublicKey, SecretKey};
use serde::{Deserialize, Serialize};

use crate::{
    committer::Committer,
    failure::Failure,
    keys,
    time::{now_ms, rfc3339},
};

/// How long a challenge can be answered.
const CHALLENGE_MS: u64 = 5 * 60 * 1000;
/// Challenges that are remembered. Whoever asks for more makes the market forget the oldest: anybody may ask, so that a flood
/// must not keep others from logging in.
const CHALLENGES_MAX: usize = 10_000;
/// Tokens that are remembered as good. Only this market's own get in, so that nobody can fill it with noise.
const CHECKED_MAX: usize = 50_000;
/// How long a token lasts.
const TOKEN_MS: u64 = 15 * 60 * 1000;
/// How long a token lasts whose session key ends within [`TOKEN_MS`].
const TOKEN_ENDING_MS: u64 = 60 * 1000;
/// How long a session key may act.
const SESSION_S_MAX: u32 = 30 * 24 * 3600;

/// The key behind a request, and the wallet it acts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The wallet.
    pub account: PublicKey,
    /// The key that acts: the wallet's own, or a session key.
    pub key: PublicKey,
}

/// Gives out challenges and tokens, and checks them.
pub struct Auth {
    market: PublicKey,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// Whether clients reach us by TLS.
    scheme: &'static str,
    hosts: Hosts,
    pending: Mutex<Challenges>,
    /// Tokens whose signature was checked, with their caller and their end. Checking costs more than most requests.
    checked: RwLock<HashMap<String, (Caller, u64)>>,
}

/// Challenges that wait for their answer.
#[derive(Default)]
struct Challenges {
    by_nonce: HashMap<String, Pending>,
    /// Nonces in the order they were given out, which is the order they end in; some were answered since.
    order: VecDeque<(u64, String)>,
}

impl Challenges {
    fn add(&mut self, nonce: String, pending: Pending, now_ms: u64) {
        while let Some((expires_at_ms, oldest)) = self.order.front()
            && (*expires_at_ms <= now_ms || self.order.len() >= CHALLENGES_MAX)
        {
            self.by_nonce.remove(oldest);
            self.order.pop_front();
        }
        self.order.push_back((pending.expires_at_ms, nonce.clone()));
        self.by_nonce.insert(nonce, pending);
    }

    fn take(&mut self, nonce: &str) -> Option<Pending> {
        self.by_nonce.remove(nonce)
    }
}

struct Pending {
    address: PublicKey,
    /// The session key and until when it may act.
    session: Option<(PublicKey, u64)>,
    message: String,
    expires_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: PublicKey,
    key: PublicKey,
    iat: u64,
    exp: u64,
}

/// The names under which clients reach this market.
struct Hosts {
    listen: SocketAddr,
    named: Vec<String>,
}

impl Hosts {
    /// Whether `host`, as in the header of that name, is ours.
    fn contains(&self, host: &str) -> bool {
        if self.named.iter().any(|named| named.eq_ignore_ascii_case(host)) {
            return true;
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let ip: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        // Nobody else's page is at a loopback address, nor at the one address we listen on.
        name.eq_ignore_ascii_case("localhost")
            || self.named.iter().any(|named| named.eq_ignore_ascii_case(name))
            || ip.is_some_and(|ip| ip.is_loopback() || (ip == self.listen.ip() && !ip.is_unspecified()))
    }
}

impl Auth {
    /// An authority that signs with the market's key. `hosts` are its public names, with or without port.
    pub fn new(key: &SecretKey, listen: SocketAddr, hosts: Vec<String>, tls: bool) -> Self {
        let seed: [u8; 32] = key.to_pair()[..32].try_into().expect("half of a key pair");
        let der = ed25519_dalek::SigningKey::from_bytes(&seed).to_pkcs8_der().expect("a key has a DER form");
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[key.public().to_string()]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.leeway = 0;
        Self {
            market: key.public(),
            encoding: EncodingKey::from_ed_der(der.as_bytes()),
            decoding: DecodingKey::from_ed_der(&key.public().0),
            validation,
            scheme: if tls { "https" } else { "http" },
            hosts: Hosts { listen, named: hosts },
            pending: Mutex::default(),
            checked: RwLock::default(),
        }
    }

    /// Writes the message to be signed.
    pub fn challenge(&self, host: &str, request: ChallengeRequest) -> Result<Challenge, Failure> {
        if !self.hosts.contains(host) {
            return Err(Failure::new(
                code::REQUEST_INVALID,
                format!("this market is not known as {host:?}"),
                "start the market with this host name, or reach it by the address it listens on",
            ));
        }
        let now = now_ms();
        let expires_at_ms = now + CHALLENGE_MS;
        let session = request.session.map(|s| (s.key, s.lifetime_s));
        if let Some((key, lifetime_s)) = session {
            if lifetime_s == 0 || lifetime_s > SESSION_S_MAX {
                let detail = format!("a session key acts for 1 to {SESSION_S_MAX} seconds");
                return Err(Failure::new(code::REQUEST_INVALID, detail, "choose a shorter time")
                    .at("session.lifetime_s"));
            }
            if key == request.address {
                let detail = "the session key is the wallet's own key";
                return Err(Failure::new(code::REQUEST_INVALID, detail, "make a new key").at("session.key"));
            }
        }
        let session = session.map(|(key, lifetime_s)| (key, now + u64::from(lifetime_s) * 1000));
        let nonce = hex::encode(keys::random::<16>());
        let message = self.message(host, request.address, &nonce, now, expires_at_ms, session);
        let pending = Pending { address: request.address, session, message: message.clone(), expires_at_ms };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).add(nonce.clone(), pending, now);
        Ok(Challenge { nonce, message, expires_at: rfc3339(expires_at_ms) })
    }

    fn message(
        &self,
        host: &str,
        address: PublicKey,
        nonce: &str,
        now: u64,
        expires_at_ms: u64,
        session: Option<(PublicKey, u64)>,
    ) -> String {
        let (market, scheme) = (self.market, self.scheme);
        let (statement, resources) = match session {
            None => (format!("Log in to the Plexus market {market}."), String::new()),
            Some((key, until)) => {
                let until = rfc3339(until);
                (
                    format!(
                        "Log in to the Plexus market {market} and let the session key {key} act for this wallet until {until}."
                    ),
                    format!("\nResources:\n- plexus:session:{key}?expires={until}"),
                )
            }
        };
        format!(
            "{host} wants you to sign in with your Solana account:\n{address}\n\n{statement}\n\nURI: {scheme}://{host}\n\
             Version: 1\nNonce: {nonce}\nIssued At: {}\nExpiration Time: {}{resources}",
            rfc3339(now),
            rfc3339(expires_at_ms)
        )
    }

    /// Checks an answered challenge and gives out a token. Whatever comes of it, the challenge is used up.
    pub async fn login(&self, request: LoginRequest, committer: &Committer) -> Result<Session, Failure> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take(&request.nonce);
        let invalid = || {
            Failure::new(
                code::NONCE_INVALID,
                "the challenge was answered before, has ended, or was never given out",
                "ask for a new challenge with POST /v1/auth/challenge",
            )
        };
        let pending = pending.filter(|pending| pending.expires_at_ms > now_ms()).ok_or_else(invalid)?;
        let Pending { address, session, message, .. } = pending;
        let session_key = session.map(|(key, _)| key);
        if session_key.is_some() && request.session_signature.is_none() {
            return Err(Failure::new(
                code::SIGNATURE_INVALID,
                "the session key did not sign",
                "sign the message with the session key too, as session_signature, and ask for a new challenge",
            )
            .at("session_signature"));
        }
        tokio::task::spawn_blocking(move || {
            address.verify_bytes("login", message.as_bytes(), &request.signature)?;
            match session_key.zip(request.session_signature) {
                Some((key, signature)) => key.verify_bytes("session", message.as_bytes(), &signature),
                None => Ok(()),
            }
        })
        .await
        .map_err(Failure::internal)?
        .map_err(|error| {
            Failure::new(
                code::SIGNATURE_INVALID,
                error.to_string(),
                "sign the exact bytes of the challenge's message, and ask for a new challenge",
            )
        })?;
        let caller = match session {
            Some((key, expires_at_ms)) => {
                let command = Command::DelegateSession { wallet: address, session: key, expires_at_ms };
                committer.decide(command, |_, _, _| ()).await?;
                Caller { account: address, key }
            }
            None => {
                let wallet = committer.query(move |state, now| state.wallet_of(address, now)).await?;
                let account = wallet.ok_or_else(|| {
                    Failure::new(
                        code::UNAUTHENTICATED,
                        "the session key's time is over",
                        "have the wallet delegate a new session key",
                    )
                })?;
                Caller { account, key: address }
            }
        };
        let key = caller.key;
        let outlives =
            committer.query(move |state, now| state.wallet_of(key, now + TOKEN_MS).is_some()).await?;
        self.token(caller, if outlives { TOKEN_MS } else { TOKEN_ENDING_MS })
    }

    fn token(&self, caller: Caller, lifetime_ms: u64) -> Result<Session, Failure> {
        let now_s = now_ms() / 1000;
        let exp = now_s + lifetime_ms / 1000;
        let claims =
            Claims { iss: self.market.to_string(), sub: caller.account, key: caller.key, iat: now_s, exp };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.encoding)
            .map_err(Failure::internal)?;
        Ok(Session { token, expires_at: rfc3339(exp * 1000), account: caller.account, key: caller.key })
    }

    /// The caller behind an `Authorization` header.
    pub fn caller(&self, authorization: Option<&str>) -> Result<Caller, Failure> {
        let fix = "log in with POST /v1/auth/challenge and POST /v1/auth/login, and send the token as \"Authorization: Bearer …\"";
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Failure::new(code::UNAUTHENTICATED, "the request carries no token", fix))?;
        let checked = self.checked.read().unwrap_or_else(PoisonError::into_inner).get(token).copied();
        if let Some((caller, _)) = checked.filter(|(_, exp_s)| *exp_s > now_ms() / 1000) {
            return Ok(caller);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|error| {
                let detail = match error.kind() {
                    jsonwebtoken::errors::ErrorKind::ExpiredSignature => "the token has ended",
                    _ => "the token is not one of this market's",
                };
                Failure::new(code::UNAUTHENTICATED, detail, fix)
            })?
            .claims;
        let caller = Caller { account: claims.sub, key: claims.key };
        let mut checked = self.checked.write().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= CHECKED_MAX {
            let now_s = now_ms() / 1000;
            checked.retain(|_, (_, exp_s)| *exp_s > now_s);
            if checked.len() >= CHECKED_MAX {
                checked.clear();
            }
        }
        checked.insert(token.to_owned(), (caller, claims.exp));
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        let listen = "10.1.2.3:7700".parse().expect("an address");
        Auth::new(&SecretKey::from_seed([9; 32]), listen, vec!["market.example".into()], false)
    }

    #[test]
    fn only_hosts_of_this_market_are_written_into_a_message() {
        let auth = auth();
        for ours in [
            "localhost:1",
            "127.0.0.1:7700",
            "[::1]:7700",
            "10.1.2.3:7700",
            "market.example",
            "MARKET.example:443",
        ] {
            assert!(auth.hosts.contains(ours), "{ours}");
        }
        for other in
            ["evil.example", "market.example.evil.example", "10.1.2.4:7700", "localhost.evil.example", ""]
        {
            assert!(!auth.hosts.contains(other), "{other}");
        }
    }

    #[test]
    fn a_flood_of_challenges_keeps_nobody_from_logging_in() {
        let auth = auth();
        let ask = || {
            let request = ChallengeRequest { address: PublicKey([1; 32]), session: None };
            auth.challenge("localhost", request).expect("everybody may ask").nonce
        };
        let first = ask();
        for _ in 0..2 * CHALLENGES_MAX {
            ask();
        }
        let last = ask();
        let mut pending = auth.pending.lock().expect("nobody panicked");
        assert_eq!((pending.by_nonce.len(), pending.order.len()), (CHALLENGES_MAX, CHALLENGES_MAX));
        assert!(pending.take(&first).is_none());
        assert!(pending.take(&last).is_some() && pending.take(&last).is_none(), "answered once");
    }

    #[test]
    fn a_token_names_its_caller_until_it_ends() {
        let auth = auth();
        let caller = Caller { account: PublicKey([1; 32]), key: PublicKey([2; 32]) };
        let session = auth.token(caller, TOKEN_MS).expect("a token");
        assert_eq!(auth.caller(Some(&format!("Bearer {}", session.token))).expect("it is valid"), caller);
        let stranger = Auth::new(
            &SecretKey::from_seed([8; 32]),
            "127.0.0.1:1".parse().expect("an address"),
            vec![],
            false,
        );
        let forged = stranger.token(caller, TOKEN_MS).expect("a token").token;
        let over =
            Claims { iss: auth.market.to_string(), sub: caller.account, key: caller.key, iat: 1, exp: 2 };
        let over =
            jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &over, &auth.encoding).expect("a token");
        // The public key as an HMAC secret: the classic confusion.
        let confused = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &Claims {
                iss: auth.market.to_string(),
                sub: caller.account,
                key: caller.key,
                iat: 1,
                exp: u64::MAX / 2,
            },
            &EncodingKey::from_secret(&auth.market.0),
        )
        .expect("a token");
        for bad in ["", "Bearer", "Bearer x.y.z", &format!("Basic {}", session.token)] {
            assert!(auth.caller(Some(bad)).is_err(), "{bad}");
        }
        for bad in [forged, over, confused] {
            let problem = auth.caller(Some(&format!("Bearer {bad}"))).expect_err("refused").into_problem();
            assert_eq!(problem.code, code::UNAUTHENTICATED);
        }
        assert!(auth.caller(None).is_err());
    }
}
