/** Who calls: the identity folder that `hedgerow login` and the Python SDK keep. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import { UnauthenticatedError } from "./errors.js";

const CERTIFICATE = "-----BEGIN CERTIFICATE-----";

/** A key pair with its certificate, all in PEM. */
export interface Identity {
  readonly keyPem: string;
  /** Leaf and intermediates, leaf first. */
  readonly chainPem: string;
  readonly rootsPem: string;
  /** The single SPIFFE URI of the leaf, such as `spiffe://hedgerow.local/user/ana`. */
  readonly spiffeId: string;
}

/** Returns the SPIFFE ID among the names of a certificate: exactly one URI with that scheme, or undefined. */
export function spiffeIdOf(subjectAltName: string | undefined): string | undefined {
  const uris = (subjectAltName ?? "").split(", ").filter((name) => name.startsWith("URI:"));
  const id = uris[0]?.slice("URI:".length);
  return uris.length === 1 && id?.startsWith("spiffe://") ? id : undefined;
}

/** The folder with `identity.pem` (key, leaf, intermediates) and `roots.pem`, both replaced when it is renewed. */
export class IdentityFolder {
  #stamp = "";
  #last: Identity | undefined;

  constructor(readonly folder: string) {}

  /**
   * Returns the newest usable identity: the stored one when it changed and is sound, else the last good one.
   *
   * @throws UnauthenticatedError there never was a usable one.
   */
  current(): Identity {
    const stat = statSync(join(this.folder, "identity.pem"), { throwIfNoEntry: false, bigint: true });
    const stamp = stat === undefined ? this.#stamp : `${stat.mtimeNs} ${stat.ino}`;
    if (stamp !== this.#stamp) {
      this.#stamp = stamp;
      this.#last = this.#load() ?? this.#last;
    }
    if (this.#last === undefined) {
      throw new UnauthenticatedError("UNAUTHENTICATED", `there is no usable identity in ${this.folder}; log in first`);
    }
    return this.#last;
  }

  /** A truncated file, or a key that does not match its certificate, counts as none. */
  #load(): Identity | undefined {
    try {
      const pem = readFileSync(join(this.folder, "identity.pem"), "utf8");
      const rootsPem = readFileSync(join(this.folder, "roots.pem"), "utf8");
      const keyPem = pem.slice(0, pem.indexOf(CERTIFICATE));
      const chainPem = pem.slice(pem.indexOf(CERTIFICATE));
      const leaf = new X509Certificate(chainPem);
      const spiffeId = spiffeIdOf(leaf.subjectAltName);
      if (spiffeId === undefined || !leaf.checkPrivateKey(createPrivateKey(keyPem))) {
        return undefined;
      }
      return { keyPem, chainPem, rootsPem, spiffeId };
    } catch {
      return undefined;
    }
  }
}
