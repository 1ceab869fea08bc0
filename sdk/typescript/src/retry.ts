/**
 * Bounds the retries that one server gets from this process (gRFC A6): a bucket of tokens, full at first; a failed
 * attempt takes one, a call that succeeds gives back a tenth, and there are retries only while more than half is left.
 */
export class RetryBudget {
  #tokens: number;

  constructor(
    readonly maxTokens = 100,
    readonly tokensPerSuccess = 0.1,
  ) {
    this.#tokens = maxTokens;
  }

  /** What is left in the bucket. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Counts a call that succeeded. */
  succeeded(): void {
    this.#tokens = Math.min(this.maxTokens, this.#tokens + this.tokensPerSuccess);
  }

  /** Counts an attempt that may be tried again, and returns whether it shall be. */
  failed(): boolean {
    this.#tokens = Math.max(0, this.#tokens - 1);
    return this.#tokens > this.maxTokens / 2;
  }
}
