package io.embercache;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Collections;
import java.util.SortedMap;

/**
 * Some inputs of a call have no vector; the others are not affected, and theirs are here.
 *
 * <p>{@link #getStatus()} is that of the first input that failed.
 */
public final class PartialFailureException extends StatusRuntimeException {
  private static final long serialVersionUID = 1;

  private final transient float[][] vectors;
  private final transient SortedMap<Integer, Status> errors;

  PartialFailureException(float[][] vectors, SortedMap<Integer, Status> errors) {
    super(summary(vectors.length, errors));
    this.vectors = vectors;
    this.errors = Collections.unmodifiableSortedMap(errors);
  }

  /** The vectors in the order of the inputs; null for each that failed. */
  public float[][] vectors() {
    return vectors;
  }

  /**
   * The inputs that failed, by their place in the call. {@code UNAVAILABLE} and {@code
   * RESOURCE_EXHAUSTED} may pass: ask for those inputs again a little later.
   */
  public SortedMap<Integer, Status> errors() {
    return errors;
  }

  private static Status summary(int inputs, SortedMap<Integer, Status> errors) {
    int index = errors.firstKey();
    Status first = errors.get(index);
    return first.withDescription(
        String.format(
            "%d of %d inputs failed, the first with: input %d: %s",
            errors.size(), inputs, index, first.getDescription()));
  }
}
