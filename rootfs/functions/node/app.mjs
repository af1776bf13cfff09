// The demo's Node.js function: greets, and sums up a list of numbers.

/** Answers {"name": string, "numbers": [number]}, both optional. */
export async function handler(event, context) {
  const numbers = (event.numbers ?? []).map(Number);
  const summary = { count: numbers.length };
  if (numbers.length > 0) {
    summary.mean = numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
    summary.min = Math.min(...numbers);
    summary.max = Math.max(...numbers);
  }
  return {
    greeting: `Hello, ${event.name ?? "world"}`,
    numbers: summary,
    runtime: `Node.js ${process.version}`,
    requestId: context.awsRequestId,
    remainingMs: context.getRemainingTimeInMillis(),
  };
}
