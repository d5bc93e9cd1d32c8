/**
 * Owns what came in on a connection, in order, and waiting for what has not come yet.
 */
export class Inbox<A> {
  /** All so far, read or not. */
  readonly items: Array<A> = []
  #read = 0
  #ended = false
  #wake = Promise.withResolvers<void>()

  push(item: A): void {
    this.items.push(item)
    this.#stir()
  }

  end(): void {
    this.#ended = true
    this.#stir()
  }

  get ended(): boolean {
    return this.#ended
  }

  /** The next item not read yet; `undefined` when there will be none. */
  async next(): Promise<A | undefined> {
    while (this.#read >= this.items.length) {
      if (this.#ended) return undefined
      await this.#wake.promise
    }
    return this.items[this.#read++]
  }

  /** Reads on to the first item that fits, and answers it. Rejects when there will be none. */
  async until(fits: (item: A) => boolean): Promise<A> {
    for (;;) {
      const item = await this.next()
      if (item === undefined) throw new Error(`It never came. What did: ${JSON.stringify(this.items)}`)
      if (fits(item)) return item
    }
  }

  /** Reads on to the end. Answers everything that ever came. */
  async rest(): Promise<ReadonlyArray<A>> {
    while ((await this.next()) !== undefined);
    return this.items
  }

  #stir() {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers<void>()
  }
}
