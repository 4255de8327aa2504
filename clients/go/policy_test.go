package embercache

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func TestCallsAreTriedForAboutThreeSeconds(t *testing.T) {
	var config struct {
		MethodConfig []struct {
			RetryPolicy struct {
				MaxAttempts                int
				InitialBackoff, MaxBackoff string
				BackoffMultiplier          float64
			}
		}
	}
	if err := json.Unmarshal([]byte(serviceConfig), &config); err != nil {
		t.Fatal(err)
	}
	policy := config.MethodConfig[0].RetryPolicy
	initial, _ := time.ParseDuration(policy.InitialBackoff)
	longest, _ := time.ParseDuration(policy.MaxBackoff)
	var waits float64
	for retry := range policy.MaxAttempts - 1 {
		wait := initial.Seconds() * math.Pow(policy.BackoffMultiplier, float64(retry))
		waits += min(wait, longest.Seconds())
	}
	if math.Abs(waits-3.3) > 0.01 {
		t.Errorf("they are tried for %v seconds", waits)
	}
}
