import { setTimeout } from "node:timers/promises";

/**
 * Answers many questions asked at about the same time with one request. A question never joins a request that is
 * already on its way, so nobody gets an answer older than the question.
 */
export class Batcher<Key, Value> {
  private next: { readonly keys: Set<Key>; readonly answers: Promise<ReadonlyMap<Key, Value>> } | undefined;

  constructor(
    private readonly load: (keys: readonly Key[]) => Promise<ReadonlyMap<Key, Value>>,
    private readonly windowMs: number,
  ) {}

  async get(key: Key): Promise<Value | undefined> {
    this.next ??= this.open();
    this.next.keys.add(key);
    return (await this.next.answers).get(key);
  }

  private open() {
    const keys = new Set<Key>();
    const answers = setTimeout(this.windowMs).then(() => {
      this.next = undefined;
      return this.load([...keys]);
    });
    return { keys, answers };
  }
}
