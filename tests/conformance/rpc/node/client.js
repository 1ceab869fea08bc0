// The interoperability cases with @grpc/grpc-js. Usage: node client.js TARGET IDENTITY_FOLDER; prints one JSON object.
'use strict';
const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const [target, folder] = process.argv.slice(2);
const pem = fs.readFileSync(`${folder}/identity.pem`, 'utf8');
const mark = pem.indexOf('-----BEGIN CERTIFICATE-----');
const roots = fs.readFileSync(`${folder}/roots.pem`);
const credentials = grpc.credentials.createSsl(roots, Buffer.from(pem.slice(0, mark)), Buffer.from(pem.slice(mark)));
const name = 'ingestion.hedgerow.local';
const client = new grpc.Client(target, credentials, {
  'grpc.ssl_target_name_override': name, 'grpc.default_authority': name,
});

const same = (bytes) => bytes;
const path = (method) => `/hedgerow.testing.v1.EchoService/${method}`;
const soon = (seconds = 5) => ({ deadline: Date.now() + seconds * 1000 });

// A BytesValue: field 1, length, bytes.
function wire(value) {
  const bytes = Buffer.from(value);
  if (!bytes.length) return Buffer.alloc(0);
  const head = [0x0a];
  let rest = bytes.length;
  while (rest > 127) { head.push((rest & 127) | 128); rest >>>= 7; }
  return Buffer.concat([Buffer.from([...head, rest]), bytes]);
}
function value(message) {
  if (!message.length) return Buffer.alloc(0);
  let at = 1;
  while (message[at] & 128) at += 1;
  return message.subarray(at + 1);
}

function unary(method, body, options = soon(), metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    client.makeUnaryRequest(method, same, same, body, metadata, options, (error, answer) => {
      resolve(error ? { code: error.code, details: error.details } : { size: value(answer).length });
    });
  });
}
function up(bodies) {
  return new Promise((resolve) => {
    const call = client.makeClientStreamRequest(path('Up'), same, same, new grpc.Metadata(), soon(), (error, answer) => {
      resolve(error ? { code: error.code } : { text: value(answer).toString() });
    });
    bodies.forEach((body) => call.write(body));
    call.end();
  });
}
function down(method, body) {
  return new Promise((resolve) => {
    const seen = [];
    const call = client.makeServerStreamRequest(method, same, same, body, new grpc.Metadata(), soon());
    call.on('data', (message) => seen.push(value(message).toString()));
    call.on('error', () => {});
    call.on('status', (status) => resolve({ code: status.code, seen }));
  });
}
function pingPong(sizes, cancelAfterFirst = false) {
  return new Promise((resolve) => {
    const seen = [];
    const call = client.makeBidiStreamRequest(path('Both'), same, same, new grpc.Metadata(), soon());
    const next = () => (seen.length < sizes.length ? call.write(wire(String(sizes[seen.length]))) : call.end());
    call.on('data', (message) => {
      seen.push(value(message).length);
      if (cancelAfterFirst) call.cancel(); else next();
    });
    call.on('error', () => {});
    call.on('status', (status) => resolve({ code: status.code, seen }));
    next();
  });
}
function cancelAfterBegin() {
  return new Promise((resolve) => {
    const call = client.makeUnaryRequest(
      path('Sleep'), same, same, wire('10000'), new grpc.Metadata(), soon(20), (error) => resolve({ code: error.code }));
    setTimeout(() => call.cancel(), 200);
  });
}

async function main() {
  const special = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP \u{1F608}\t\n';
  const metadata = new grpc.Metadata();
  metadata.add('x-text', 'a b,c;=~!');
  metadata.add('x-raw-bin', Buffer.from([0, 255, 171]));
  const results = {
    emptyUnary: await unary(path('Echo'), Buffer.alloc(0)),
    largeUnary: await unary(path('Echo'), wire('size:314159 '.padEnd(271828, 'x'))),
    clientStreaming: await up([wire('a'), wire('bb'), wire('ccc')]),
    serverStreaming: await down(path('Down'), wire('1')),
    pingPong: await pingPong([31415, 9, 2653, 58979]),
    emptyStream: await pingPong([]),
    timeout: await unary(path('Sleep'), wire('10000'), soon(0.2)),
    cancelAfterBegin: await cancelAfterBegin(),
    cancelAfterFirst: await pingPong([31415], true),
    status: await unary(path('Fail'), wire('ABORTED test status message')),
    special: await unary(path('Fail'), wire(`ABORTED ${special}`)),
    unimplementedMethod: await unary(path('Nope'), Buffer.alloc(0)),
    unimplementedService: await down('/no.such.Service/Echo', Buffer.alloc(0)),
    metadata: await unary(path('Echo'), wire('m'), soon(), metadata),
  };
  const gzip = new grpc.Client(target, credentials, {
    'grpc.ssl_target_name_override': name, 'grpc.default_authority': name, 'grpc.default_compression_algorithm': 2,
  });
  results.compressed = await new Promise((resolve) => {
    gzip.makeUnaryRequest(path('Echo'), same, same, wire('size:9 '.padEnd(271828, 'x')), new grpc.Metadata(), soon(),
      (error, answer) => resolve(error ? { code: error.code, details: error.details } : { size: value(answer).length }));
  });
  process.stdout.write(JSON.stringify(results));
  client.close();
  gzip.close();
}
main();
