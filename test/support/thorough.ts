/** Whether what can't be quick is repeated often: `TEST_THOROUGH=1`. */
export const thorough = process.env.TEST_THOROUGH === "1"
