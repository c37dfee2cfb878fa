package cache

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgehub-io/edge-hub/edgehub/journal/journaltest"
)

// TestAFaultThatLostNothingEndsWithTheNextEvent, or with another list if none comes.
func TestAFaultThatLostNothingEndsWithTheNextEvent(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprintf("quiet %v", quiet), func(t *testing.T) {
			withQuota(t, Quota{}, func(f *quotaFixture) {
				f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
				watch, up := f.openWatch(f.query(inShop + "?watch=true&resourceVersion=10"))
				time.Sleep(time.Second)
				on, _ := f.failing(syscall.ENOSPC, journaltest.Write)
				on.Store(true)
				_, _ = io.WriteString(up, bookmarkOf(11, false)+"\n")
				synctest.Wait()
				f.expectMissing("Disk=1")
				on.Store(false)
				time.Sleep(10 * time.Second) // it is tried
				if f.Status().Disk != nil {
					t.Fatal("the disk still fails")
				}
				f.expectMissing("Disk=1")
				if !quiet {
					_, _ = io.WriteString(up, bookmarkOf(12, false)+"\n")
					synctest.Wait()
					f.expectMissing("")
					if n := len(f.Status().NotKept); n != 0 {
						t.Errorf("%d are not kept", n)
					}
					time.Sleep(time.Hour)
					expectNothing(t, watch)
					f.expect(inShop, "a@3 rv=12")
				} else {
					time.Sleep(2 * behindWait)
					synctest.Wait()
					if len(watch) == 0 {
						t.Error("the watch goes on")
					}
					f.record(f.query(inShop), listOf(12, object("shop", "a", 3)))
					f.expectMissing("")
				}
				up.Close()
				synctest.Wait()
			})
		})
	}
}

// TestAWatchWhoseRecordingFellBehindListsAgain while it goes on: its view is behind for
// as long as it does. So does one whose initial events were not recorded.
func TestAWatchWhoseRecordingFellBehindListsAgain(t *testing.T) {
	for name, options := range map[string]string{"watch": "?watch=true&resourceVersion=10", "watch list": watchList} {
		t.Run(name, func(t *testing.T) {
			withQuota(t, Quota{}, func(f *quotaFixture) {
				file := f.query(inShop).Key.file()
				f.watches.mayEnd(file, time.Now()) // one was ended just now
				var finish func()
				stalled := make(chan struct{})
				if name == "watch" {
					finish = f.slowList(f.query(inShop), listOf(10)) // which it waits for
				} else {
					finish = func() { close(stalled) }
					f.disk.Inject(func(op journaltest.Op) *journaltest.Fault {
						if op.Kind == journaltest.Create {
							<-stalled
						}
						return nil
					})
				}
				watch, up := f.openWatch(f.query(inShop + options))
				synctest.Wait()
				for v := 11; v <= 90; v++ {
					_, _ = io.WriteString(up, eventOf("ADDED", object("shop", fmt.Sprint("o", v), v, "padding", strings.Repeat("x", 10<<10)))+"\n")
				}
				finish()
				synctest.Wait()
				f.expectMissing("Incomplete=1")
				time.Sleep(behindWait - 3*time.Second)
				expectNothing(t, watch)
				time.Sleep(behindWait + 5*time.Second)
				synctest.Wait()
				if len(watch) == 0 {
					t.Error("the watch goes on")
				}
				up.Close()
				f.record(f.query(inShop), listOf(90))
				f.expectMissing("")
			})
		})
	}
}

// TestAnotherWatchMakesUpForOneThatCouldNotBeKeptUpWith.
func TestAnotherWatchMakesUpForOneThatCouldNotBeKeptUpWith(t *testing.T) {
	f := newState(t)
	f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
	fell := &recording{store: f.Store, query: f.query(inShop + "?watch=true&resourceVersion=10"), view: f.view(f.query(inShop).Key)}
	fell.finish(errOverflow)
	f.expectMissing("Incomplete=1")
	s := f.stream(f.query(inShop + "?watch=true&resourceVersion=10"))
	s.send(eventOf("MODIFIED", object("shop", "a", 11)))
	f.awaitMissing("")
	s.end()
}

// TestAViewThatTurnsOutToBeDamagedIsListedAgain: it was there, whatever its watch began
// with.
func TestAViewThatTurnsOutToBeDamagedIsListedAgain(t *testing.T) {
	for _, found := range []string{"by an answer", "by a start"} {
		t.Run(found, func(t *testing.T) {
			withQuota(t, Quota{}, func(f *quotaFixture) {
				resumed := f.query(inShop + "?watch=true&resourceVersion=10")
				f.record(f.query(inShop), listOf(10, object("shop", "a", 3)))
				watch, up := f.openWatch(resumed)
				time.Sleep(afterStart + time.Second) // what is not there is not taken for lost
				if found == "by a start" {
					up.Close()
					<-watch
					f.end()
				}
				f.disk.Put(resumed.Key.file(), []byte("no record\n"))
				if found == "by a start" {
					f.start(Quota{})
					watch, up = f.openWatch(resumed)
				} else if code, _ := f.ask(f.query(inShop)); code != http.StatusServiceUnavailable {
					t.Errorf("%d", code)
				}
				defer up.Close()
				time.Sleep(2*behindWait + time.Second)
				synctest.Wait()
				expectTold(t, watch, ended)
				f.record(f.query(inShop), listOf(12, object("shop", "a", 3)))
				f.expectMissing("")
			})
		})
	}
}

// TestWhatIsInMemoryAloneIsWrittenWhenItIsReadAgain, though it has not changed.
func TestWhatIsInMemoryAloneIsWrittenWhenItIsReadAgain(t *testing.T) {
	withQuota(t, Quota{}, func(f *quotaFixture) {
		q := f.query(inShop + "/a")
		f.record(q, single("shop", "a", 3))
		time.Sleep(2 * time.Second)
		on, _ := f.failing(syscall.EIO, journaltest.Create, journaltest.Sync)
		for _, failing := range []bool{true, false} {
			f.record(q, single("shop", "a", 4))
			on.Store(failing)
			time.Sleep(maxProbe + time.Second)
			synctest.Wait()
			f.record(q, single("shop", "a", 4))
		}
		f.expectMissing("")
		f.end()
		f.start(Quota{})
		if code, body := f.ask(q); code != http.StatusOK || !strings.Contains(body, `"at":"4"`) {
			t.Errorf("%d %s", code, body)
		}
	})
}
