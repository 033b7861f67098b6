//! Builds hellos, right and wrong ones.

/// The fields of a hello; `Default` is a small valid one without extensions.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) legacy_version: u16,
    pub(super) session_id: Vec<u8>,
    /// The cipher list, as bytes, so that it can have an odd length.
    pub(super) ciphers: Vec<u8>,
    pub(super) compression: Vec<u8>,
    /// The extension block, without its length; absent as in hellos of old clients.
    pub(super) extensions: Option<Vec<u8>>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            legacy_version: 0x0303,
            session_id: vec![7; 32],
            ciphers: u16s(&[0x1301, 0xc02f]),
            compression: vec![0],
            extensions: None,
        }
    }
}

impl Fields {
    pub(super) fn with(extensions: &[Vec<u8>]) -> Self {
        Self { extensions: Some(extensions.concat()), ..Self::default() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend([0x5a; 32]);
        body.extend(vector_8(&self.session_id));
        body.extend(vector_16(&self.ciphers));
        body.extend(vector_8(&self.compression));
        body.extend(self.extensions.iter().flat_map(|extensions| vector_16(extensions)));
        body
    }

    pub(super) fn message(&self) -> Vec<u8> {
        message(&self.body())
    }

    /// In one record.
    pub(super) fn raw(&self) -> Vec<u8> {
        record(&self.message())
    }
}

/// A hello in one record whose only extension is this.
pub(super) fn raw_with(extension_type: u16, data: &[u8]) -> Vec<u8> {
    Fields::with(&[extension(extension_type, data)]).raw()
}

pub(super) fn message(body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    message[0] = 1;
    message.extend(body);
    message
}

pub(super) fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], vector_16(payload).as_slice()].concat()
}

/// Spreads a message over records of these sizes, what is left over the last.
pub(super) fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut rest = message;
    let mut raw = Vec::new();
    for &size in sizes {
        let (payload, next) = rest.split_at(size.min(rest.len()));
        if !payload.is_empty() {
            raw.extend(record(payload));
        }
        rest = next;
    }
    if !rest.is_empty() {
        raw.extend(record(rest));
    }
    raw
}

pub(super) fn extension(extension_type: u16, data: &[u8]) -> Vec<u8> {
    [&extension_type.to_be_bytes(), vector_16(data).as_slice()].concat()
}

pub(super) fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector_16(&[&[0], vector_16(name).as_slice()].concat()))
}

pub(super) fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| vector_8(protocol)).collect();
    extension(16, &vector_16(&list))
}

pub(super) fn supported_versions(versions: &[u16]) -> Vec<u8> {
    extension(43, &vector_8(&u16s(versions)))
}

/// Extension 13, 34 or 50.
pub(super) fn algorithms(extension_type: u16, algorithms: &[u16]) -> Vec<u8> {
    extension(extension_type, &vector_16(&u16s(algorithms)))
}

pub(super) fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

pub(super) fn vector_8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

pub(super) fn vector_16(content: &[u8]) -> Vec<u8> {
    [u16::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}
