//! From an input to byte streams: as it is, and as parts of hellos whose lengths are right, which mutations rarely leave so.

/// The streams that one input stands for.
pub(crate) fn of(data: &[u8]) -> Vec<Vec<u8>> {
    let mut streams = vec![data.to_vec()];
    if data.len() <= LONGEST_PART {
        let message = hello(data);
        streams.push(record(&message));
        streams.push(record(&hello(&server_name(data))));
        // Spread over records, whose sizes follow from the bytes.
        let mut dice = Dice::new(data);
        let mut rest = message.as_slice();
        let mut spread = Vec::new();
        while !rest.is_empty() {
            let (piece, next) = rest.split_at((1 + dice.below(300)).min(rest.len()));
            spread.extend(record(piece));
            rest = next;
        }
        streams.push(spread);
    }
    streams
}

/// A record carries 2^14 bytes; this leaves room for the rest of a hello.
const LONGEST_PART: usize = 16_000;

/// A hello with this extension block.
pub(crate) fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]); // random
    body.push(0); // no session id
    body.extend([0, 4, 0x13, 0x01, 0xc0, 0x2f]); // two cipher suites
    body.extend([1, 0]); // null compression
    body.extend(length_16(extensions));
    body.extend(extensions);
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, high, middle, low], body.as_slice()].concat()
}

/// A `server_name` extension whose only `host_name` is this, and extensions without which some servers read no further.
fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], length_16(name).as_slice(), name].concat();
    let list = [length_16(&entry).as_slice(), &entry].concat();
    let mut block = [&[0, 0], length_16(&list).as_slice(), &list].concat();
    block.extend([0, 13, 0, 4, 0, 2, 4, 3]); // signature_algorithms
    block.extend([0, 10, 0, 4, 0, 2, 0, 29]); // supported_groups
    block.extend([0, 43, 0, 3, 2, 3, 4]); // supported_versions
    block
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], length_16(payload).as_slice(), payload].concat()
}

fn length_16(bytes: &[u8]) -> Vec<u8> {
    u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec()
}

/// Choices that follow from an input: Marsaglia's xorshift64, begun with the input's FNV-1a.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(data: &[u8]) -> Self {
        let hash = data
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Self(hash.max(1))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}
